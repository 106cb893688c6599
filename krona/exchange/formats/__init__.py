"""The formats an adapter is exported to, one module each, with the same functions.

IS_FOLDER: whether it is a folder, or else one .safetensors file.
check(adapter, base): raise KronaError if the format cannot hold it; nothing is written yet.
write(path, adapter, base, origin, dtype): round and write; the adapter is ejected from its base.
loader(adapter): the tool that deltas() reads with; krona itself where none is installed.
deltas(path, adapter, base): yield (layer path, (out, in) update) as that tool applies it, without
    the layers it skips; closed or failed, it leaves the base as before.
usage(name, family): the Python that loads it, for the model card.
"""
