"""List the experiments: what they reproduce, what they cost, and our results.

aggnets experiments --family=sparsenet --format=markdown
"""

import argparse
from pathlib import Path

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError, unknown

FORMATS = ("table", "csv", "markdown")


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument("--results", help="folder of CSV files of runs; default results")
    parser.add_argument("--family", help="folder of configs to list; default all")
    parser.add_argument("--format", default="table", help=f"{', '.join(FORMATS)}; default table")


def run(flags: argparse.Namespace) -> None:
    """Print the experiments."""
    if flags.format not in FORMATS:
        raise unknown("format", flags.format, FORMATS)
    if flags.results is not None and not Path(flags.results).is_dir():
        raise UserError(f"results {flags.results} is no folder")
    from aggnets_jax.reports import experiments

    experiments.show(flags.family, Path(flags.results or "results"), flags.format)
