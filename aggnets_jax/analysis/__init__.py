"""What a trained network tells: the papers' own analyses, of a checkpoint.

Each is a file of this package, and a command: `aggnets analyse NAME --workdir=...`.
"""
