"""Aggregation networks in JAX."""
