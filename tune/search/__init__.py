"""The search: a space and past results in, the next settings out, and which trials to prune.

It knows nothing of how a trial is run.
"""
