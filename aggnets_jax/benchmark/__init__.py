"""How fast networks are, and what they take: see docs/benchmark.md.

python -m aggnets_jax.benchmark --models=NAME,... --modes=train,eval,...
"""
