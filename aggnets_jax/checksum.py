"""Checksums of what a checkpoint holds: of the values in its arrays, and of its JSON data.

They are computed when the values are handed over to be saved and again when they were restored. So
whatever happens to them in between is found, wherever it happens, and it does not matter over how
many devices and processes an array is spread.

All are SHA-256, on the host. A hash on the devices would spare the copy, and would be compiled for
each shape there is, which takes long for a deep network.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aggnets_jax.distributed import to_host
from aggnets_jax.errors import OtherArrays
from aggnets_jax.paths import by_path


def of_arrays(tree: Any) -> dict[str, list[Any]]:
    """The checksums of arrays by their paths: [dtype, shape, SHA-256 of the bytes]."""
    return {path: [*kind(array), _sum(array)] for path, array in by_path(tree).items()}


def kind(array: jax.Array | jax.ShapeDtypeStruct) -> list[Any]:
    """[dtype, shape], with which an array's checksum begins."""
    return [array.dtype.name, list(array.shape)]


def check_kinds(path: Path, item: str, saved: Mapping[str, Any], target: Any) -> None:
    """Compares the arrays that an item of a checkpoint has, by its checksums, with a target.

    Raises:
      OtherArrays: if names, dtypes or shapes differ.
    """
    there = {name: kind_and_sum[:2] for name, kind_and_sum in saved.items()}
    wanted = {name: kind(array) for name, array in by_path(target).items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            was, now = (
                f"{kinds[name][0]} {kinds[name][1]}" if name in kinds else "nothing"
                for kinds in (there, wanted)
            )
            raise OtherArrays(path, f"{item}/{name} is {was} there, and must be {now}")


def of_json(value: Any) -> str:
    """SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sum(array: jax.Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(to_host(array))).hexdigest()
