"""Evaluate a checkpoint on the whole evaluation split.

Examples:
    aggnets eval --workdir=runs/digits --checkpoint=best
    aggnets eval --workdir=runs/digits --watch
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared
from aggnets_jax.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_checkpoint(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="evaluate the newest checkpoint, and later ones until the run is finished",
    )
    shared.add_data_dir(parser)
    shared.add_processes(parser)


def run(flags: argparse.Namespace) -> None:
    """Evaluate."""
    if flags.watch and flags.checkpoint != "latest":
        raise UserError("--watch evaluates the newest checkpoints, not that of --checkpoint")
    from aggnets_jax.evaluate import evaluate_checkpoint, watch
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    with shared.together(flags):
        if flags.watch:
            watch(flags.workdir, flags.data_dir)
        else:
            evaluate_checkpoint(flags.workdir, flags.checkpoint, flags.data_dir)
