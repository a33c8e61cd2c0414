"""Compare networks over seeds: paired differences with confidence intervals.

Example:
    aggnets compare runs/sparse-0 runs/sparse-1 --against runs/dense-0 runs/dense-1

Runs that differ only in the seed are one network. The runs after --against are the reference; each
other network is compared with it. A seed fixes the order and the augmentation of the data, so that
runs with the same seed are a pair, and the differences of pairs count.
"""

import argparse

from aggnets_jax.cli import Parser


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a finished run")
    parser.add_argument(
        "--against", nargs="+", required=True, metavar="WORKDIR", help="of the reference's runs"
    )
    parser.add_argument(
        "--may_differ",
        action="append",
        default=[],
        metavar="FIELD",
        help="field of the config, besides the network's, that differs on purpose; may be repeated",
    )
    parser.add_argument("--output", help="results/NAME, without a suffix, of a table and a page")


def run(flags: argparse.Namespace) -> None:
    """Print the comparison, and write it."""
    from aggnets_jax.reports import compare, results

    output = flags.output and results.output_path(flags.output)
    comparison = compare.compare(flags.workdirs, flags.against, flags.may_differ)
    compare.show(comparison)
    if output:
        results.write_tables(output, compare.records(comparison), compare.page(comparison, output))
        print(f"{output}.csv, {output}.md")
