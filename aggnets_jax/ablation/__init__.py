"""What becomes of a trained network when its links are cut: sweeps, exports, learnt patterns."""
