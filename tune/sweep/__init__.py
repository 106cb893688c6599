"""A sweep from start to end: its settings in; a search over slots, records, and the champion out.

It decides nothing that a room below can decide; commands know it, and it knows no command.
"""
