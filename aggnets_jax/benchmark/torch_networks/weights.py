"""Loading of our variables into the PyTorch networks."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch import nn

from aggnets_jax.errors import UserError

# Names that differ; biases and weights of shortcuts have the same names.
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"  # a buffer of PyTorch's normalisations, unused here


def load_variables(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copy the variables of our network into the PyTorch module of the same network.

    `stage1/layer3/norm1/scale` becomes `stage1.layer3.norm1.weight`, and so on. Kernels of
    convolutions are transposed from [height, width, in, out] to [out, in, height, width], linear
    layers from [in, out] to [out, in]. The module keeps its dtype.

    Args:
      module: made by `create`.
      variables: "params" and "batch_stats" of our network, without `scan`.

    Raises:
      UserError: if a variable has no place in the module, or another shape than its place, or if a
        place remains without a variable.
    """
    places = {k: v for k, v in module.state_dict().items() if not k.endswith(_COUNTER)}
    with torch.no_grad():
        for path, name, value in _named(variables):
            if name not in places:
                raise UserError(f"the PyTorch network has no place for {path!r}")
            place = places.pop(name)
            if place.shape != value.shape:
                raise UserError(
                    f"{path!r} has the shape {value.shape} in PyTorch's order, {name!r} needs"
                    f" {tuple(place.shape)}"
                )
            place.copy_(torch.from_numpy(value))
    if places:
        raise UserError(f"no variable fills {len(places)} places, {next(iter(places))!r} first")


def _named(variables: Mapping[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield our path, PyTorch's name, and the value in PyTorch's order for each variable."""
    for collection in ("params", "batch_stats"):
        for keys, value in traverse_util.flatten_dict(variables.get(collection, {})).items():
            *path, leaf = keys
            value = np.array(value)  # writable, and on the host
            if leaf == "kernel":
                value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            yield "/".join(keys), ".".join([*path, _LEAVES.get(leaf, leaf)]), value
