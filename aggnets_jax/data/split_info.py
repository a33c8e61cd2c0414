"""Features and splits of data sets that are not TFDS's, in the form of TFDS's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from aggnets_jax.data.tf_runtime import import_tensorflow


class SetInfo(NamedTuple):
    """The part of TFDS's `DatasetInfo` that a data set from elsewhere has."""

    features: Mapping[str, Any]
    splits: Mapping[str, Any]
    supervised_keys: tuple[str, str] = ("image", "label")
    file_format: None = None


def make_info(
    name: str,
    data_dir: str,
    counts: Mapping[str, int],
    class_names: Sequence[str],
    shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> SetInfo:
    """Return the facts about a data set with some examples in each split."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    # TFDS slices a split only if its files have a name, which is not used here.
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(data_dir), dataset_name=name, filetype_suffix="none"
    )
    splits = tfds.core.SplitDict(
        tfds.core.SplitInfo(split, [count], num_bytes=0, filename_template=template)
        for split, count in counts.items()
    )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
    )
    return SetInfo(features, splits)


def pieces_of(info: SetInfo, split: str) -> list[Any]:
    """Return the parts of a split, each with `splitname`, `from_` and `to`."""
    import tensorflow_datasets as tfds

    # A split may have any name, also one that is no expression of splits.
    parse = tfds.core.ReadInstruction
    parse = parse if split in info.splits else parse.from_spec
    return parse(split).to_absolute(info.splits)
