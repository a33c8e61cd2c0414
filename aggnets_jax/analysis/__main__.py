"""Analyses of a checkpoint, or of results: tables and pictures, in WORKDIR/analysis by default.

python -m aggnets_jax.analysis NAME --workdir=WORKDIR [--checkpoint=best] [...]
python -m aggnets_jax.analysis efficiency --output=FOLDER [--results=results] [...]
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from aggnets_jax.cli import Parser, exit_code

# Modules beside this one. Each has `add_arguments(parser)` for its own flags, and
# `run(restored, given, output)`, which prints a table and writes files into the folder `output`.
ANALYSES = (
    "grad_cam",
    "robustness",
    "weights",
    "shortcuts",
    "gates",
    "gradients",
    "topology",
    "paths",
    "reuse",
)

# Of tables of runs and not of a checkpoint; their `run` is `run(given, output)`.
OF_RESULTS = ("efficiency",)

_FILES = {
    "gradients": "output_gradients",
    "shortcuts": "shortcut_weights",
    "topology": "pattern_costs",
    "efficiency": "../reports/efficiency",
}


def first_line(name: str) -> str:
    """Read what an analysis says of itself first, without importing it, JAX and Matplotlib."""
    source = (
        Path(__file__).parent.joinpath(f"{_FILES.get(name, name)}.py").read_text(encoding="utf-8")
    )
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]


def _module(name: str) -> ModuleType:
    if name in OF_RESULTS:
        return importlib.import_module(f"aggnets_jax.reports.{name}")
    return importlib.import_module(f"aggnets_jax.analysis.{_FILES.get(name, name)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line.

    Raises:
      UserError: for an unknown analysis or flag, or a flag that is missing.
    """
    parser = Parser(
        prog="python -m aggnets_jax.analysis",
        description="What a trained network tells; tables and pictures go to WORKDIR/analysis.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    words = sys.argv[1:] if arguments is None else arguments
    for name in ANALYSES + OF_RESULTS:
        told = first_line(name)
        command = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        if name in OF_RESULTS:
            command.add_argument("--output", required=True, help="folder to write to")
        else:
            _add_arguments_of_checkpoint(command)
        if name in words:
            _module(name).add_arguments(command)
    return parser.parse_args(arguments)


def _add_arguments_of_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workdir", required=True, help="local directory of the run")
    command.add_argument(
        "--checkpoint", default="latest", help="latest, best or a step; default latest"
    )
    command.add_argument("--seed", type=int, help="of a run that trains several at once")
    command.add_argument("--output", help="folder to write to; default WORKDIR/analysis")


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    given = parse(arguments)
    from aggnets_jax.files import make_folder
    from aggnets_jax.runtime import mesh as mesh_lib
    from aggnets_jax.runtime.compilation import enable_program_cache
    from aggnets_jax.workdir.restore import restore_network

    enable_program_cache()
    if given.name in OF_RESULTS:
        _module(given.name).run(given, make_folder(given.output))
        return
    mesh = mesh_lib.make_mesh()
    restored = restore_network(given.workdir, given.checkpoint, mesh_lib.replicated(mesh))
    restored = restored._replace(variables=restored.variables_at(given.seed))
    output = make_folder(given.output or Path(given.workdir, "analysis"))
    _module(given.name).run(restored, given, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0, or 2 for a mistake of the user's."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
