"""The mesh of devices: the axis "data", and the axis "slice" if there are several slices.

Batches are divided over all devices. Parameters and the optimiser's state are either copied to
every device, with gradients summed over all (data parallel); or divided (fully sharded, FSDP). Then
each device gathers the parameters for a step and updates its part. The network between slices is
slow, so each slice has a copy of the parameters, divided within the slice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from aggnets_jax.errors import UserError


def make_mesh(slices: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the mesh of all devices, or of some, for a number of slices.

    Its axis is "data". With several slices the axis "slice" comes first: a slice is a TPU slice if
    there are as many of these, and otherwise that share of the devices in the order of their
    processes. 0 stands for the number of TPU slices.

    Raises:
      UserError: if the slices can't have equally many devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    found = {getattr(device, "slice_index", 0) for device in devices}
    slices = slices or len(found)
    if len(devices) % slices:
        raise UserError(f"{len(devices)} devices can't be divided equally over {slices} slices")
    each = len(devices) // slices
    if slices == 1:
        return jax.make_mesh((each,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    if len(found) == slices:
        grid = mesh_utils.create_hybrid_device_mesh((1, each), (slices, 1), devices)
    else:
        grid = np.array(devices).reshape(slices, each)
    return Mesh(grid, ("slice", "data"), axis_types=(AxisType.Auto,) * 2)


def over_batch(mesh: Mesh) -> PartitionSpec:
    """Return the specification of batches: the first axis over all devices."""
    return PartitionSpec(mesh.axis_names)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches: the first axis over all devices."""
    return NamedSharding(mesh, over_batch(mesh))


def state_sharding(mesh: Mesh, tree: Any, kind: str, leading: int = 0) -> Any:
    """Return the sharding of each array of a state, or of a part of it; arrays or their shapes.

    The kind is "replicated", or "fsdp": each kernel, and its part of the optimiser's state, is
    divided along the longest axis that the number of devices of a slice divides. Vectors, and
    kernels without such an axis, are copied. The first `leading` axes, such as seeds, are not the
    network's.
    """

    def shard(array: jax.ShapeDtypeStruct) -> NamedSharding:
        axis = divided_axis(array.shape[leading:], mesh.shape["data"]) if kind == "fsdp" else -1
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


def neighbours(devices: int, size: int) -> list[list[int]]:
    """Return the numbers of all devices in groups of `size`, which divides their number."""
    return np.arange(devices).reshape(-1, size).tolist()


def map_blocks(function: Callable[..., Any], block: int) -> Callable[..., Any]:
    """Map a function over a batch whose blocks of consecutive examples do not depend on each other.

    The function takes a tree of arrays with the batch, which `block` divides, as first axis, and
    another tree that every device has; it returns a tree of arrays of the same batch. Within
    `gradients.inside_mesh` each device maps its own blocks; elsewhere, and where a device has its
    part of the batch already, the function is called. Devices that hold parts of a block gather
    them from each other, so what a device receives does not grow with their number.
    """

    def mapped(batch: Any, fixed: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto:
            return function(batch, fixed)
        each = len(jax.tree.leaves(batch)[0]) // mesh.size
        sharing = block // math.gcd(each, block)  # devices that together hold whole blocks

        def on_device(batch: Any, fixed: Any) -> Any:
            if sharing == 1:
                return function(batch, fixed)
            axes, groups = mesh.axis_names, neighbours(mesh.size, sharing)
            whole = jax.lax.all_gather(batch, axes, axis_index_groups=groups, tiled=True)
            start = jax.lax.axis_index(axes) % sharing * each
            return jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, each), function(whole, fixed)
            )

        divided = PartitionSpec(mesh.axis_names)
        return jax.shard_map(
            on_device,
            in_specs=(divided, PartitionSpec()),
            out_specs=divided,
            check_vma=False,
        )(batch, fixed)

    return mapped


def map_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map a function of (arrays of an image, fixed arrays) over a batch, as `map_blocks`.

    XLA's partitioner does the same by itself, except for sorts and `top_k`, for which it gathers
    the batch on each device.
    """
    return map_blocks(jax.vmap(function, in_axes=(0, None)), 1)


def shapes_on(shapes: Any, sharding: Any) -> Any:
    """Return the shapes and dtypes of arrays with a sharding: one for all, or a tree of them."""
    if isinstance(sharding, Sharding):
        sharding = jax.tree.map(lambda _, one=sharding: one, shapes)
    return jax.tree.map(
        lambda x, own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=own), shapes, sharding
    )


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
            f"{name} {size} is not divisible by {devices} devices{times};"
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
