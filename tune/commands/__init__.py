"""One file for each `krona` command: typed options in, a printed result out.

No logic that another caller could want.
"""
