"""Adapters as files: krona's own and those of other tools, read onto a base and written for them.

Enters: a file or an adapter.  Leaves: layers on a base; an export, loaded back and compared. It
knows nothing of how adapters are trained.
"""
