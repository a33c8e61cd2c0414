"""List the experiments: what they reproduce, what they cost, and our results.

Example:
    aggnets experiments --family=sparsenet --format=markdown
"""

import argparse
from pathlib import Path

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument("--results", help="folder of CSV files of runs; default results")
    parser.add_argument("--family", help="folder of configs to list; default all")
    parser.add_argument(
        "--format", choices=("table", "csv", "markdown"), default="table", help="default table"
    )


def run(flags: argparse.Namespace) -> None:
    """Print the experiments."""
    if flags.results is not None and not Path(flags.results).is_dir():
        raise UserError(f"results {flags.results} is no folder")
    from aggnets_jax.reports import experiments

    experiments.show(flags.family, Path(flags.results or "results"), flags.format)
