"""The training step and its parts: gradients, losses, optimisers, schedules, metrics."""
