"""krona: find the best Kronecker adapter for a subject."""

__version__ = "0.1.0"
