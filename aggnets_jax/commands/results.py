"""Make tables of finished runs: NAME.csv by run and seed, NAME.md by config.

Example:
    aggnets results runs/sparse-0 runs/sparse-1 --output=results/sparse
"""

import argparse

from aggnets_jax.cli import Parser


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a finished run")
    parser.add_argument("--output", required=True, help="results/NAME, without a suffix")


def run(flags: argparse.Namespace) -> None:
    """Write the table and the page."""
    from aggnets_jax.reports import results

    output = results.output_path(flags.output)
    rows = [result for workdir in flags.workdirs for result in results.read_run(workdir)]
    grouped = results.groups(rows)
    results.write_tables(output, [row.record for row in rows], results.page(grouped, output))
    print(f"{output}.csv, {output}.md: {len(rows)} results of {len(grouped)} configs")
