"""Download a TFDS data set, or take its files from a folder, and prepare it once.

python -m aggnets_jax.data.prepare --name=cifar10 [--data_dir=DIR] [--manual_dir=DIR]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tarfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m aggnets_jax.data.prepare",
        description="Downloads and prepares a TFDS data set, once.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--name", required=True, help="TFDS name: cifar10, imagenet2012, imagenet_resized/32x32"
    )
    parser.add_argument(
        "--data_dir", help="where the prepared data goes; default: TFDS_DATA_DIR or TFDS's own"
    )
    parser.add_argument(
        "--manual_dir", help="folder with the original files, for sets one must fetch oneself"
    )
    return parser.parse_args(arguments)


def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, after preparing it if necessary.

    Args:
      name: TFDS name, with or without a config.
      data_dir: directory of the prepared data, made if necessary; None is TFDS's default.
      manual_dir: directory of the original files; None downloads them.

    Raises:
      UserError: the set is unknown or not for image classification, files are missing or damaged,
        there is no network, or a directory cannot be written.
    """
    # These imports take seconds; wrong flags are reported before.
    from aggnets_jax.data.catalog import find_builder, is_prepared
    from aggnets_jax.data.dataset_info import feature_keys
    from aggnets_jax.data.tf_runtime import import_tensorflow

    tf = import_tensorflow()
    import tensorflow_datasets as tfds

    if manual_dir is not None and not os.path.isdir(os.path.expanduser(manual_dir)):
        raise UserError(f"manual_dir {manual_dir} does not exist or is not a directory")
    builder = find_builder(name, data_dir)
    feature_keys(builder)
    if is_prepared(builder):
        return builder
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            )
        )
    except AssertionError as error:  # TFDS asserts that the manually fetched files exist
        wanted = one_line(builder.MANUAL_DOWNLOAD_INSTRUCTIONS or error)
        raise UserError(f"files for {name} are missing; give --manual_dir: {wanted}") from error
    except (
        tfds.download.download_manager.NonMatchingChecksumError,
        tfds.download.extractor.ExtractError,
        tfds.download.DownloadError,
        tf.errors.OpError,
        tarfile.TarError,
        ImportError,
        OSError,
    ) as error:
        raise UserError(f"cannot prepare {name}: {one_line(error)}") from error
    return builder


def _report(builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None) -> None:
    from aggnets_jax.data.dataset_info import feature_keys

    print(f"{name} {builder.version} is prepared in {builder.data_path}")
    for split, facts in sorted(builder.info.splits.items()):
        print(f"  {split}: {facts.num_examples} examples")
    image, label = feature_keys(builder)
    print(f"  classes: {builder.info.features[label].num_classes}")
    print(f"  images: {builder.info.features[image].shape}")
    where = f" data.data_dir={data_dir}" if data_dir else ""
    print(f"use it with data.name={name}{where}")


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retried download warns once more
    given = _parse(arguments)
    builder = prepare(given.name, given.data_dir, given.manual_dir)
    _report(builder, given.name, given.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0, or 2 for a mistake of the user's."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
