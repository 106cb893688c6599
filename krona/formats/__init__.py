"""The formats an adapter is exported to, one module each.

write() takes an Adapter that holds the trained factors and is ejected from its base; deltas() reads
what was written and yields (layer path, (out, in) update) as the tool named by loader() does.
"""
