"""Download a TFDS data set, or take its files from a folder, and prepare it once.

Examples:
    aggnets prepare-data --name=cifar10
    aggnets prepare-data --name=imagenet2012 --data_dir=DIR --manual_dir=DIR
"""

import argparse

from aggnets_jax.cli import Parser


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--name", required=True, help="TFDS name: cifar10, imagenet2012, imagenet_resized/32x32"
    )
    parser.add_argument(
        "--data_dir", help="folder for the prepared data; default TFDS_DATA_DIR, or TFDS's own"
    )
    parser.add_argument(
        "--manual_dir", help="folder with the original files, for sets that TFDS can't download"
    )


def run(flags: argparse.Namespace) -> None:
    """Prepare the data set, and describe it."""
    from aggnets_jax.data.prepare import prepare, report

    report(prepare(flags.name, flags.data_dir, flags.manual_dir), flags.name, flags.data_dir)
