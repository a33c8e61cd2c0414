"""Data sets by their names, TFDS's or of another source; nothing here downloads."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
from typing import TYPE_CHECKING

from etils import epath

from aggnets_jax.buckets import is_url
from aggnets_jax.data.folders import is_visible
from aggnets_jax.data.image_folder import IMAGE_FOLDER, open_folder
from aggnets_jax.data.sources import SOURCES, open_source
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line, unknown

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SHIPPED = {
    "aggnets_digits": "aggnets_jax.data.digits",
    "aggnets_mnist5k": "aggnets_jax.data.mnist5k",
}
"""Modules of the data sets that come with packages and are prepared at first use, by name."""
COCO_FOLDER, SCENES = "coco_folder", "aggnets_digit_scenes"
OBJECT_SETS = (COCO_FOLDER, SCENES)
"""Names of data sets of objects, see `aggnets_jax.data.objects`."""


def is_of_folder(name: str) -> bool:
    """Return whether `data_dir` itself is the data set of this name, and not a folder of sets."""
    return name in (IMAGE_FOLDER, COCO_FOLDER, *SOURCES)


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the TFDS builder of a data set, prepared or not.

    Files on disk take precedence over the installed TFDS code, so that sets of another version, or
    of a builder that this installation lacks, are found.

    Args:
      name: TFDS name, "cifar10", or with a config, "imagenet_resized/32x32".
      data_dir: directory of TFDS's data sets; None is TFDS's default.

    Raises:
      UserError: there is no such data set or config, or it is a folder of images, which is never
        prepared.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    # TFDS understands other forms, such as "huggingface:NAME", which would run code from elsewhere.
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:[\d.*]+)?", name, re.ASCII):
        raise UserError(f"data set {name!r} must have the form NAME, NAME/CONFIG or NAME:VERSION")
    base, _, config = name.partition(":")[0].partition("/")
    if base == IMAGE_FOLDER:
        raise UserError(f"{IMAGE_FOLDER} needs no preparation: give its folder as data_dir")
    if base in SOURCES:
        raise UserError(f"{base} needs no preparation: give its place as data_dir")
    if base in OBJECT_SETS:
        raise UserError(
            f"data set {base} has objects, not a class for each image: it is for the tasks"
            " detection and multilabel"
        )
    # TFDS looks at the files first only if the name asks for a version, even for any version.
    versioned = name if ":" in name else f"{name}:*.*.*"
    try:
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return tfds.builder(versioned, data_dir=data_dir)
        if base in SHIPPED:  # not prepared yet
            import_tensorflow()  # quietly, before the definition of a builder imports it
            importlib.import_module(SHIPPED[base])  # which registers the builder
        return tfds.builder(versioned, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        shipped = {*SHIPPED, IMAGE_FOLDER, *SOURCES, *OBJECT_SETS}
        known = {*tfds.list_builders(with_community_datasets=False), *shipped}
        raise unknown("data set", base, known) from None
    except (AssertionError, ImportError, OSError, ParseError, ValueError) as error:
        configs = set(tfds.builder_cls(base).builder_configs) if config else set()
        if configs and config not in configs:
            raise unknown(f"config of {base}", config, configs) from None
        damaged = _damaged_file(epath.Path(data_dir or tfds.core.constants.DATA_DIR, base))
        where = f"{damaged} is damaged: " if damaged else ""
        problem = f"data set {name!r} cannot be opened: {where}{one_line(error)}"
        raise UserError(problem) from error


def _damaged_file(folder: epath.Path) -> epath.Path | None:
    """Return the first JSON file of a prepared data set that can't be read, if there is one."""
    # In folders of versions, which may be in folders of configs; buckets search no deeper.
    for file in sorted([*folder.glob("*/*.json"), *folder.glob("*/*/*.json")]):
        if not is_visible(file.name):
            continue
        try:
            json.loads(file.read_text())
        except (OSError, ValueError, RecursionError):
            return file
    return None


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Return whether the data set is complete on disk; TFDS renames it into place at the end."""
    return (builder.data_path / "dataset_info.json").exists()


def open_prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the builder of a prepared data set; only the sets of `SHIPPED` are prepared here.

    Arguments and errors are those of `find_builder`. But data_dir must exist, locally or in a
    bucket; for `SHIPPED` it must be writable. "image_folder" is a name, too, see `open_folder`,
    and so are `SOURCES`, see `open_source`.
    """
    if name in SOURCES:
        return open_source(name, data_dir)
    data_dir = _existing(data_dir)
    if name == IMAGE_FOLDER:
        return open_folder(data_dir)
    builder = find_builder(name, data_dir)
    if is_prepared(builder):
        return builder
    if builder.name in SHIPPED:
        return _prepare_shipped(builder, name, data_dir)
    where = str(data_dir or builder.data_dir_root)
    raise UserError(
        f"data set {name} is not prepared in {where}; prepare it once with: "
        f"aggnets prepare-data --name={name} --data_dir={shlex.quote(where)}"
    )


def _existing(data_dir: str | None) -> str | None:
    if data_dir is None:
        return None
    try:
        path = epath.Path(data_dir).expanduser()
        there = path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # an unknown scheme or "~user"
        raise UserError(f"data_dir {data_dir} can't be used: {one_line(error)}") from error
    if not there:
        # A run may be evaluated from another folder than the one where it was trained.
        where = "" if is_url(data_dir) or path.is_absolute() else f" in {os.getcwd()}"
        raise UserError(
            f"data_dir {data_dir} does not exist or is not a directory{where}; change --data_dir"
        )
    return str(path)


def _prepare_shipped(
    builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints; this takes a second
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        # Another process that started at the same time may have prepared them.
        builder = find_builder(name, data_dir)
        if not is_prepared(builder):
            where = f"{name} data set to {data_dir or builder.data_dir_root}"
            raise UserError(f"cannot write the {where}: {one_line(error)}") from error
    return builder
