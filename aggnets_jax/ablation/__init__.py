"""What becomes of a trained network when its links are cut: sweeps, exports, learnt patterns."""

PENALTIES = ("l1", "topk")
"""On the weights of links, see `pruning`; here, so that --help of `learn` imports no JAX."""
