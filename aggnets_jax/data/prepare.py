"""Download a TFDS data set, or take its files from a folder, and prepare it once."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import tarfile
from typing import TYPE_CHECKING

from aggnets_jax.data.folders import check_local
from aggnets_jax.data.objects.voc import VOC, write_voc
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import local_path, make_folder, plainly_named

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def prepare(
    name: str, data_dir: str | None, manual_dir: str | None, file_format: str | None = None
) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, after preparing it if necessary.

    Name and data_dir, which is made if necessary, are as for `find_builder`. `manual_dir` has the
    original files; None downloads them. `file_format` is TFDS's name of one, by default "tfrecord".

    Raises:
      UserError: the set is unknown or not for this package, files are missing or damaged,
        there is no network, a directory cannot be written, or the set is there in another format.
    """
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retried download warns once more
    from aggnets_jax.data.catalog import find_builder, is_prepared
    from aggnets_jax.data.dataset_info import feature_keys
    from aggnets_jax.data.tf_runtime import import_tensorflow

    tf = import_tensorflow()
    import tensorflow_datasets as tfds

    manual = None if manual_dir is None else local_path(manual_dir)
    if manual is not None and not manual.is_dir():
        raise UserError(f"manual_dir {manual_dir} does not exist or is not a directory")
    builder = find_builder(name, data_dir)
    if builder.name == VOC:
        check_local(str(builder.data_path))
        if file_format == "array_record":
            raise UserError(f"--file_format is not for {name}: it becomes a folder of JPEG files")
    else:
        feature_keys(builder)
    stored = builder.info.file_format.value
    if is_prepared(builder):
        if file_format not in (None, stored):
            raise UserError(
                f"{name} is prepared in {builder.data_path} as {stored} already; give another"
                " --data_dir"
            )
        return builder
    if file_format is not None:
        builder.info.set_file_format(file_format, override=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        # Builders of TFDS look for files by patterns that begin with these folders.
        with (
            plainly_named(make_folder(builder.data_dir_root)) as root,
            plainly_named(manual) if manual else contextlib.nullcontext() as files,
        ):
            config = tfds.download.DownloadConfig(manual_dir=files, try_download_gcs=False)
            builder.download_and_prepare(download_dir=root / "downloads", download_config=config)
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


def report(builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None) -> None:
    """Print the folder, the splits and the shapes of a prepared data set.

    A data set of objects becomes a folder in COCO's format, whose name is printed.
    """
    if builder.name == VOC:
        folder = write_voc(builder)
        print(f"{name} is prepared in COCO's format in {folder}")
        where = f"--config.data.name=coco_folder --data_dir={shlex.quote(str(folder))}"
        print(f"use it with --config.task=detection {where}")
        return
    from aggnets_jax.data.dataset_info import feature_keys

    print(f"{name} {builder.version} is prepared in {builder.data_path}")
    for split, facts in sorted(builder.info.splits.items()):
        print(f"  {split}: {facts.num_examples} examples")
    image, label = feature_keys(builder)
    print(f"  classes: {builder.info.features[label].num_classes}")
    print(f"  images: {builder.info.features[image].shape}")
    where = f" --data_dir={shlex.quote(data_dir)}" if data_dir else ""
    print(f"use it with --config.data.name={name}{where}")
