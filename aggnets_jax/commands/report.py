"""Report a finished run: a table, its connection pattern, its curves, and a page.

Example:
    aggnets report --workdir=runs/digits --html
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared
from aggnets_jax.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument("--workdir", metavar="DIR", required=True, help="directory of the run")
    parser.add_argument("--html", action="store_true", help="make WORKDIR/report.html, too")
    shared.add_data_dir(parser)


def run(flags: argparse.Namespace) -> None:
    """Print the table, and write the pictures and the page."""
    if flags.data_dir is not None and not flags.html:
        raise UserError("--data_dir is for --html")
    from aggnets_jax.reports.run import report
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    report(flags.workdir, html=flags.html, data_dir=flags.data_dir)
