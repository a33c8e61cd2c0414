"""The training step, and all that a config can choose of it."""
