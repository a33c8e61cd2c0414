"""Analyse a trained network as papers do: tables and pictures in WORKDIR/analysis.

Examples:
    aggnets analyse weights --workdir=runs/digits
    aggnets analyse efficiency --output=runs/efficiency

`aggnets analyse NAME --help` lists the flags of an analysis.
"""

import argparse
import ast
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aggnets_jax.cli import Parser
from aggnets_jax.commands import CommandParser, shared

# Each module has `add_arguments(parser)` for the flags of its own, and
# `run(restored, flags, output)`, which prints a table and writes files into the folder `output`.
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
    "efficiency": "aggnets_jax.reports.efficiency",
}

OF_RESULTS = ("efficiency",)
"""Analyses of tables of results, without a checkpoint: their `run` is `run(flags, output)`."""


class _AnalysisParser(CommandParser):
    """Parser of one analysis; the analysis, and JAX with it, is imported only when it is chosen."""

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the flags of the analysis."""
        _module(self.get_default("name")).add_arguments(self)
        flags, rest = super().parse_known_args(args, namespace)
        if rest:
            raise self.unknown_flag(rest[0])
        return flags, rest


def add_arguments(parser: Parser) -> None:
    """Add a parser for each analysis."""
    analyses = parser.add_subparsers(
        dest="name", required=True, metavar="NAME", parser_class=_AnalysisParser
    )
    for name in ANALYSES:
        line = _first_line(name)
        analysis = analyses.add_parser(name, help=line, description=line)
        analysis.set_defaults(name=name)
        if name in OF_RESULTS:
            analysis.add_argument("--output", required=True, help="folder to write to")
        else:
            shared.add_checkpoint(analysis)
            shared.add_seed(analysis)
            analysis.add_argument("--output", help="folder to write to; default WORKDIR/analysis")


def run(flags: argparse.Namespace) -> None:
    """Read the checkpoint, and run the analysis."""
    from aggnets_jax.files import make_folder
    from aggnets_jax.runtime import mesh as mesh_lib
    from aggnets_jax.runtime.compilation import enable_program_cache
    from aggnets_jax.workdir.restore import restore_network

    enable_program_cache()
    inputs: list[Any] = []
    if flags.name not in OF_RESULTS:
        everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
        restored = restore_network(flags.workdir, flags.checkpoint, everywhere)
        inputs.append(restored._replace(variables=restored.variables_at(flags.seed)))
    output = make_folder(flags.output or Path(flags.workdir, "analysis"))
    _module(flags.name).run(*inputs, flags, output)


def _module(name: str) -> ModuleType:
    return importlib.import_module(ANALYSES[name])


def _first_line(name: str) -> str:
    """Return the first line of an analysis's docstring without importing JAX and Matplotlib."""
    package, _, module = ANALYSES[name].rpartition(".")
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    source = Path(folder, f"{module}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]
