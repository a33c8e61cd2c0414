"""How fast networks are, and what they take: see docs/benchmark.md.

aggnets benchmark --models=NAME,... --modes=train,eval,...
"""

MODES = ("train", "eval", "compile", "ablation", "input", "input_streamed")
"""What is timed: names, for --help; `programs.MODES` has the programs, and imports JAX."""
