"""Training: config, data, state, batches, the loop over them, and the pack that shares a base."""
