"""Trials: settings in, reports out, over what stays loaded; what is tried before it is.

It knows nothing of Ray, nor of who asks: a terminal or a slot.
"""
