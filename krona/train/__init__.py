"""Training: config, data, batches, the state that is saved, the loop over one run or many.

Enters: a base, photos and a config.  Leaves: a stream of records, and adapters that have learned.
It knows nothing of scores, trials, or what decides the settings.
"""
