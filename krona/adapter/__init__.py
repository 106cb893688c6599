"""The adapter: the math of A ⊗ B and of LoRA, the layers, and one or many of them in a network.

Enters: a frozen network's linears and what an adapter's config says.  Leaves: layers around them,
off and on again.  It knows nothing of checkpoints, files, or training.
"""
