"""Analyses of a trained network, as papers make them: `aggnets analyse NAME --workdir=...`.

Each analysis is a file with `add_arguments(parser)` for its own flags, if it has any, and
`run(restored, given, output)`, which prints a table and writes files into the folder `output`.
Their functions share these arguments:

    restored  network restored from a checkpoint, with the variables of one seed
    images    float [B, height, width, channels], normalised
    labels    int [B]
    stages    links of each stage by its name, from `taps.stages_of`; N is a stage's depth
    matrix    float [N + 2, N + 1], a number for each link of a stage by layer and source; layer
              N + 1 is the stage's output, and NaN means that there is no link
"""

import ast
import importlib.util
from pathlib import Path

ANALYSES = {
    "grad_cam": "aggnets_jax.analysis.grad_cam",
    "robustness": "aggnets_jax.analysis.robustness",
    "corruptions": "aggnets_jax.analysis.corruptions",
    "weights": "aggnets_jax.analysis.weights",
    "shortcuts": "aggnets_jax.analysis.shortcut_weights",
    "gates": "aggnets_jax.analysis.gates",
    "gradients": "aggnets_jax.analysis.output_gradients",
    "topology": "aggnets_jax.analysis.pattern_costs",
    "paths": "aggnets_jax.analysis.paths",
    "reuse": "aggnets_jax.analysis.reuse",
    "calibration": "aggnets_jax.analysis.calibration",
    "ensemble": "aggnets_jax.analysis.ensemble",
    "averages": "aggnets_jax.analysis.averages",
    "transfer": "aggnets_jax.analysis.transfer",
    "dissection": "aggnets_jax.analysis.dissection",
}
"""Modules by the names of analyses, which their files in WORKDIR/analysis have, too."""

OF_ALL_SEEDS = ("ensemble", "averages")
"""Analyses of several networks, which get the variables of all seeds."""


def first_line(module: str) -> str:
    """Return the first line of an analysis's docstring without importing JAX and Matplotlib."""
    package, _, name = module.rpartition(".")
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    source = Path(folder, f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]
