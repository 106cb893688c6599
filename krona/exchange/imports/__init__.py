"""The adapters of other tools that krona reads, one module each, with the same functions.

reads(tensors): whether a file of these names is of this kind.
layers(tensors, base, config): path → layer around the base's own linear of that path.
"""
