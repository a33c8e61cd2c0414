"""What a run writes, and how it is restored."""
