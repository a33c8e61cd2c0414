"""Classify files of images.

Example:
    aggnets predict --workdir=runs/digits --images=photos --images=six.png --format=csv
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_checkpoint(parser)
    shared.add_seed(parser)
    parser.add_argument(
        "--images", action="append", required=True, help="file, or folder of files; may be repeated"
    )
    parser.add_argument("--top", type=int, default=5, help="classes for each image; default 5")
    parser.add_argument("--format", default="table", help="table, csv or json; default table")
    parser.add_argument("--output", help="file to write instead of printing")
    shared.add_processes(parser)


def run(flags: argparse.Namespace) -> None:
    """Predict, and print or write the predictions."""
    from aggnets_jax.predict import check_report, predict, report_predictions
    from aggnets_jax.runtime.compilation import enable_program_cache
    from aggnets_jax.runtime.distributed import on_first_process

    enable_program_cache()
    with shared.together(flags):
        check_report(flags.format, flags.output)
        predictions = predict(
            flags.workdir, flags.images, which=flags.checkpoint, seed=flags.seed, top=flags.top
        )
        on_first_process(lambda: report_predictions(predictions, flags.format, flags.output))
