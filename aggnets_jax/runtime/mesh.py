"""The mesh that everything runs on: all devices along one axis, "data".

Batches are divided over it. Parameters and the optimiser's state are either on every device, and
their gradients summed over all (data parallel); or divided, too (fully sharded, FSDP): then each
device gathers the parameters for a step and updates its part of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aggnets_jax.errors import UserError


def make_mesh() -> Mesh:
    """Make the mesh of all devices along the axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_sharding(mesh: Mesh, tree: Any, kind: str, leading: int = 0) -> Any:
    """Return the sharding of each array of a state, or of a part of it; arrays or their shapes.

    The kind is "replicated", or "fsdp": each kernel, and its part of the optimiser's state, is
    divided along the longest axis that the number of devices divides. Vectors, and kernels without
    such an axis, are copied. The first `leading` axes, such as seeds, are not the network's.
    """

    def shard(array: jax.ShapeDtypeStruct) -> NamedSharding:
        axis = divided_axis(array.shape[leading:], mesh.size) if kind == "fsdp" else -1
        if axis < 0:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * (leading + axis), "data"))

    return jax.tree.map(shard, tree)


def divided_axis(shape: Sequence[int], devices: int) -> int:
    """Return the axis of an array that "fsdp" divides; -1 if every device has a copy."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if devices == 1 or len(shape) < 2 or not axes:
        return -1
    return max(axes, key=lambda axis: shape[axis])


def bytes_per_device(tree: Any) -> int:
    """Return the bytes of arrays on one device."""
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(tree)
    )


def check_divisible(name: str, size: int, devices: int, accumulation_steps: int = 1) -> None:
    """Raise `UserError` if a batch can't be divided equally over devices and accumulation steps."""
    parts = devices * accumulation_steps
    if size % parts:
        times = f" times {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
        raise UserError(
            f"config.{name} {size} is not divisible by {devices} devices{times};"
            f" nearest: {max(1, round(size / parts)) * parts}"
        )


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Return the rows of a batch that this process's devices hold, ascending, int64 [rows].

    The batch size is over all processes.

    Raises:
      UserError: if the batch cannot be divided evenly over the devices.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    try:
        slices = sharding.addressable_devices_indices_map((batch_size,)).values()
        sharding.shard_shape((batch_size,))
    except ValueError:
        devices = sharding.mesh.size
        raise UserError(
            f"batch_size {batch_size} cannot be divided evenly over {devices} devices"
        ) from None
    held = np.zeros(batch_size, bool)
    for (rows,) in slices:
        held[rows] = True
    return np.flatnonzero(held)


def place_rows(
    local: Mapping[str, np.ndarray], sharding: NamedSharding, batch_size: int
) -> dict[str, jax.Array]:
    """Put a batch on the devices, from arrays of the rows that `local_rows` names."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in local.items()
    }


def replicate(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Put an array on every device of the sharding's mesh; all processes must hold it."""
    everywhere = replicated(sharding.mesh)
    return jax.make_array_from_process_local_data(everywhere, array, array.shape)
