"""Moves batches from the memory of one or several processes to the devices."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from aggnets_jax.errors import UserError


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Returns the rows of a batch that this process's devices hold, ascending, int64 [rows].

    Args:
      sharding: over the batch axis.
      batch_size: of the whole batch, over all processes.

    Raises:
      UserError: the batch cannot be divided evenly over the devices.
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
    """Returns a batch on the devices, from the rows that this process holds.

    Args:
      local: arrays whose first axis are the rows `local_rows` names.
      sharding: over the batch axis.
      batch_size: of the whole batch, over all processes.
    """
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in local.items()
    }


def replicate(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Returns the array on every device of the sharding's mesh; all processes must hold it."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.make_array_from_process_local_data(everywhere, array, array.shape)
