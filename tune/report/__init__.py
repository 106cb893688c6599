"""The report of a sweep: its records in; one page that opens without a network out.

It reads MLflow, the champion's adapter and, where they are at hand, photos and base. It knows
nothing of slots, of the search or of who asks.
"""
