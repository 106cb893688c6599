"""Toyland, the embedded default: the drawn world, how its models were trained, and their weights.

Enters: nothing.  Leaves: checkpoint, scorers and subjects (embedded.py); the rest made them and is
not needed to use them.  It knows nothing of adapters.
"""
