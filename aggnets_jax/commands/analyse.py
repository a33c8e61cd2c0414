"""Analyse a trained network as papers do: tables and pictures in WORKDIR/analysis.

Examples:
    aggnets analyse weights --workdir=runs/digits
    aggnets analyse efficiency --output=runs/efficiency

`aggnets analyse NAME --help` lists the flags of an analysis.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aggnets_jax.analysis import ANALYSES, first_line
from aggnets_jax.cli import Parser
from aggnets_jax.commands import CommandParser, shared

MODULES = {**ANALYSES, "efficiency": "aggnets_jax.reports.efficiency"}

OF_RESULTS = ("efficiency",)
"""Analyses of tables of results, without a checkpoint: their `run` is `run(flags, output)`."""


class _AnalysisParser(CommandParser):
    """Parser of one analysis; the analysis, and JAX with it, is imported only when it is chosen."""

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the flags of the analysis."""
        module = _module(self.get_default("analysis"))
        if hasattr(module, "add_arguments"):
            module.add_arguments(self)
        flags, rest = super().parse_known_args(args, namespace)
        if rest:
            raise self.unknown_flag(rest[0])
        return flags, rest


def add_arguments(parser: Parser) -> None:
    """Add a parser for each analysis."""
    analyses = parser.add_subparsers(
        dest="analysis", required=True, metavar="NAME", parser_class=_AnalysisParser
    )
    for name in MODULES:
        line = first_line(MODULES[name])
        analysis = analyses.add_parser(name, help=line, description=line)
        analysis.set_defaults(analysis=name)
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
    if flags.analysis not in OF_RESULTS:
        everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
        restored = restore_network(flags.workdir, flags.checkpoint, everywhere)
        inputs.append(restored._replace(variables=restored.variables_at(flags.seed)))
    output = make_folder(flags.output or Path(flags.workdir, "analysis"))
    _module(flags.analysis).run(*inputs, flags, output)


def _module(name: str) -> ModuleType:
    return importlib.import_module(MODULES[name])
