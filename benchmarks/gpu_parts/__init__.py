"""The parts of gpu.py: a Setup and a Report in; each puts what it measures into the report.

`report` keeps it, `markdown` shows it, `run` starts a part and says how it ended; the others are
the parts themselves and what they share. They take torch, diffusers, transformers and this
repository; a part that needs another package raises LackingError.
"""
