"""The files of a run: writing them, and restoring from them."""
