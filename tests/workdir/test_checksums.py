"""Checksums of arrays, by their values and places."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggnets_jax.workdir import checkpoints


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_checksums_change_with_the_values_and_their_places(data):
    dtype = data.draw(st.sampled_from(["float32", "int32", "bfloat16", "uint8"]))
    array = np.arange(24, dtype=np.uint8).view(np.uint8)
    array = np.resize(array, 6 * jnp.dtype(dtype).itemsize).view(jnp.dtype(dtype)).reshape(2, 3)
    flipped = array.copy()
    words = flipped.reshape(-1).view(np.uint8)
    for place in data.draw(st.sets(st.integers(0, len(words) - 1), min_size=1)):
        words[place] ^= data.draw(st.sampled_from([1, 0x80, 0xFF]))
    sums = [
        checkpoints.array_checksums([jnp.asarray(a)])
        for a in (array, flipped, array.T, array[::-1])
    ]
    assert sums[0] == checkpoints.array_checksums([jnp.asarray(array)])
    assert all(other != sums[0] for other in sums[1:])


def test_checksums_are_the_same_however_an_array_is_spread():
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices, ("data",))
    array = jnp.arange(16 * len(devices), dtype=jnp.float32).reshape(-1, 4)
    spread = jax.device_put(
        array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    )
    assert checkpoints.array_checksums([spread]) == checkpoints.array_checksums([array])


# ---- Storage that fails.
