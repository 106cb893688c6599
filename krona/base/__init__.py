"""The frozen base: a checkpoint's name in; its modules out, or their shapes alone.

It knows how checkpoints lie on a disk, and that adapters go on their linears; nothing of photos,
training, or search.
"""
