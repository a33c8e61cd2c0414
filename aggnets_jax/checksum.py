"""Checksums of what a checkpoint holds: of the values in its arrays, and of its JSON data.

They are computed when the values are handed over to be saved and again when they were restored. So
whatever happens to them in between is found, wherever it happens, and it does not matter over how
many devices and processes an array is spread.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.errors import OtherArrays
from aggnets_jax.paths import by_path


def of_arrays(tree: Any) -> dict[str, list[Any]]:
    """The checksums of arrays by their paths: [dtype, shape, 64 bits as hexadecimal digits].

    The bits are two sums, modulo 2**32, of hashes of an array's words of 32 bits (its elements,
    where these are smaller) and their places. Sums of integers are the same in any order, so on any
    number of devices. A change of one word is always found, and any other but for once in 2**64.
    """
    sums = jax.device_get([_sums(array) for array in jax.tree.leaves(tree)])
    return {
        path: [*kind(array), f"{first:08x}{second:08x}"]
        for (path, array), (first, second) in zip(by_path(tree).items(), sums, strict=True)
    }


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


@jax.jit
def _sums(array: jax.Array) -> jax.Array:
    """Two sums over the words of an array, uint32 [2]."""
    word = np.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    # Places without a reshape, which would gather an array that is spread over devices.
    places, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        places += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    hashes = (_mixed(words ^ _mixed(places + np.uint32(start))) for start in (1, 2**31))
    return jnp.stack([jnp.sum(some, dtype=jnp.uint32) for some in hashes])


def _mixed(words: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3, which maps the words one to one."""
    words = (words ^ words >> 16) * np.uint32(0x85EBCA6B)
    words = (words ^ words >> 13) * np.uint32(0xC2B2AE35)
    return words ^ words >> 16
