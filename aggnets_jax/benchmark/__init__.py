"""Speed, memory and compile time of networks: see docs/benchmark.md.

aggnets benchmark --models=NAME,... --modes=train,eval,...
"""

MODES = ("train", "eval", "compile", "ablation", "input", "input_streamed")
"""Names of `modes.MODES`, for --help without importing JAX."""
