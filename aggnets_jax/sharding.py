"""The mesh that everything runs on: all devices along one axis, "data"."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aggnets_jax.errors import UserError


def make_mesh() -> Mesh:
    """All devices along the axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_divisible(name: str, size: int, devices: int) -> None:
    """Raises `UserError` if a batch of that size can't be shared out equally."""
    if size % devices:
        raise UserError(
            f"config.{name} {size} is not divisible by {devices} devices;"
            f" nearest: {max(1, round(size / devices)) * devices}"
        )
