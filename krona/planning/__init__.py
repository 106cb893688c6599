"""What training costs, before it begins: a base's configs and an adapter's settings in.

Leaves: parameters, FLOPs, memory, loaders; what to give up to fit, which factors there is room for,
and the base loaded so.  Nothing is computed, and no weights are read until then.
"""
