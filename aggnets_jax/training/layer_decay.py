"""Learning rates that fall from a network's last layer to its first, for fine-tuning."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from aggnets_jax.connectivity.scan_variables import layers_of_run

_LAYER = re.compile(r"layer\d+")
_AROUND = ("backbone", "network")  # modules that contain a network


def layers_in_order(model: Any, image_shape: Sequence[int]) -> list[str]:
    """Return the names of a network's layers in the order of computation.

    Each layer of a stage counts as one ("stage1/layer2"). So do the parts around stages, which are
    the modules with equal names up to the first "_": "stem", "stage2" (for "stage2_opening"),
    "head", "classifier". Nothing is computed.
    """
    names: dict[str, None] = {}

    def init() -> None:
        variables = model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
        # JAX's own functions would sort the paths.
        for path in traverse_util.flatten_dict(variables["params"]):
            names.update(dict.fromkeys(_layers_of(path)))

    jax.eval_shape(init)
    return list(names)


def _layers_of(path: Sequence[str]) -> list[str]:
    """Return the name of a parameter's layer, or of each layer in an array of several."""
    names = [name for name in path if name not in _AROUND]
    for place, name in enumerate(names):
        stage = "/".join(names[:place])
        if layers := layers_of_run(name):
            return [f"{stage}/layer{layer}" for layer in layers]
        if _LAYER.fullmatch(name):
            return [f"{stage}/{name}"]
    return [names[0].split("_")[0]]


def layer_factors(params: Any, order: Sequence[str], decay: float) -> Any:
    """Return the factor decay^n of each parameter, where n layers of `order` follow its own.

    Args:
      params: tree of parameters.
      order: names of the layers, from `layers_in_order`.
      decay: factor from a layer to the one before it.

    Returns:
      A tree of floats; for an array of several layers, float32 [layers, 1, ...].
    """
    last = len(order) - 1

    def factor(path: Any, value: jax.Array) -> float | np.ndarray:
        names = [key.key for key in path]
        factors = [decay ** (last - order.index(layer)) for layer in _layers_of(names)]
        if not any(map(layers_of_run, names)):
            return factors[0]
        return np.array(factors, np.float32).reshape(-1, *[1] * (value.ndim - 1))

    return jax.tree_util.tree_map_with_path(factor, params)
