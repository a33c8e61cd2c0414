"""Analyses of a checkpoint, or of results: tables and pictures, in WORKDIR/analysis by default.

python -m aggnets_jax.analysis NAME --workdir=WORKDIR [--checkpoint=best] [...]
python -m aggnets_jax.analysis efficiency --output=FOLDER [--results=results] [...]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from aggnets_jax import sharding
from aggnets_jax.analysis import (
    efficiency,
    gates,
    grad_cam,
    gradients,
    paths,
    reuse,
    robustness,
    shortcuts,
    topology,
    weights,
)
from aggnets_jax.command_line import Parser, exit_code
from aggnets_jax.compilation_cache import keep_programs
from aggnets_jax.evaluate import restore_network
from aggnets_jax.workdir import make_folder

# Each has `add_arguments(parser)` for its own flags, and `run(restored, given, output)`, which
# prints a table and writes files into the folder `output`.
ANALYSES: dict[str, ModuleType] = {
    "grad_cam": grad_cam,
    "robustness": robustness,
    "weights": weights,
    "shortcuts": shortcuts,
    "gates": gates,
    "gradients": gradients,
    "topology": topology,
    "paths": paths,
    "reuse": reuse,
}

# Of tables of runs and not of a checkpoint; their `run` is `run(given, output)`.
OF_RESULTS: dict[str, ModuleType] = {"efficiency": efficiency}


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
    for name, module in (ANALYSES | OF_RESULTS).items():
        told = module.__doc__.partition("\n")[0]
        command = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        if name in OF_RESULTS:
            command.add_argument("--output", required=True, help="folder to write to")
        else:
            _add_arguments_of_checkpoint(command)
        module.add_arguments(command)
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
    keep_programs()
    if given.name in OF_RESULTS:
        OF_RESULTS[given.name].run(given, make_folder(given.output))
        return
    mesh = sharding.make_mesh()
    restored = restore_network(given.workdir, given.checkpoint, sharding.replicated(mesh))
    restored = restored._replace(variables=restored.of_one(given.seed))
    output = make_folder(given.output or Path(given.workdir, "analysis"))
    ANALYSES[given.name].run(restored, given, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0, or 2 for a mistake of the user's."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
