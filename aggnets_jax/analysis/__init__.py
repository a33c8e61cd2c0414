"""Analyses of a trained network, as papers make them: `aggnets analyse NAME --workdir=...`.

Each analysis is a module with `add_arguments(parser)` for its own flags, and
`run(restored, flags, output)`, which prints a table and writes files into the folder `output`.
"""

import ast
import importlib.util
from pathlib import Path

ANALYSES = {
    "grad_cam": "aggnets_jax.analysis.grad_cam",
    "robustness": "aggnets_jax.analysis.robustness",
    "weights": "aggnets_jax.analysis.weights",
    "shortcuts": "aggnets_jax.analysis.shortcuts",
    "gates": "aggnets_jax.analysis.gates",
    "gradients": "aggnets_jax.analysis.gradients",
    "topology": "aggnets_jax.analysis.pattern_costs",
    "paths": "aggnets_jax.analysis.paths",
    "reuse": "aggnets_jax.analysis.reuse",
}
"""Modules of the analyses, by the names that users give."""


def first_line(module: str) -> str:
    """Return the first line of a module's docstring, without importing JAX and Matplotlib."""
    package, _, name = module.rpartition(".")
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    source = Path(folder, f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]
