"""Train a network, and evaluate it on the way.

Examples:
    aggnets train --config=configs/digits.py --workdir=runs/digits
    aggnets train --config=configs/digits.py --workdir=runs/high_lr --config.lr=0.2

The same command goes on with a run that was stopped.
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_config(parser)
    parser.add_argument("--workdir", metavar="DIR", required=True, help="directory of the run")
    parser.add_argument(
        "--allow_config_change",
        action="store_true",
        help="go on with a run that had another config so far",
    )
    shared.add_data_dir(parser)
    shared.add_processes(parser)


def run(flags: argparse.Namespace) -> None:
    """Train."""
    from aggnets_jax.runtime.compilation import enable_program_cache
    from aggnets_jax.train import train_and_evaluate

    enable_program_cache()
    config = shared.load_config(flags, {"data.data_dir": flags.data_dir})
    with shared.together(flags):
        train_and_evaluate(config, flags.workdir, allow_config_change=flags.allow_config_change)
