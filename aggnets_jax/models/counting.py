"""Parameters and multiply-adds of a network, without computing anything."""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax.errors import UserError
from aggnets_jax.execution import without_loops


class Count(NamedTuple):
    """Trainable scalars, and multiply-adds of convolutions and linear layers for one image."""

    params: int
    macs: int


def multiply_adds(module: nn.Conv | nn.Dense, output: jax.Array) -> int:
    """Those of a bound module for one image: each output position takes all weights once."""
    kernel = module.variables["params"]["kernel"]
    return int(np.prod(output.shape[1:-1]) * np.prod(kernel.shape))


def count(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Count]:
    """Counts the parts of a network.

    Norms, biases, activations and elementwise operations are no multiply-adds.

    Args:
      model: a network.
      input_shape: (height, width, channels) of one image.

    Returns:
      The counts of each part (`stem_conv`, `stage1`, ...), in the order of computation.

    Raises:
      UserError: if images of that shape are too small for the network.
    """
    macs = collections.Counter()
    order: dict[str, None] = {}

    def count_macs(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        order.update(dict.fromkeys(context.module.path[:1]))
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense):
            macs[context.module.path[0]] += multiply_adds(context.module, output)
        return output

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    model = without_loops(model)
    with nn.intercept_methods(count_macs):
        (_, endpoints), variables = jax.eval_shape(
            functools.partial(model.init_with_output, train=False), jax.random.key(0), images
        )
    empty = [name for name, endpoint in endpoints.items() if 0 in endpoint.shape]
    if empty:
        size = "x".join(map(str, input_shape[:2]))
        raise UserError(f"images of {size} are too small for this network: {empty[0]} is empty")
    params = {
        name: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(part))
        for name, part in variables["params"].items()
    }
    return {name: Count(params[name], macs[name]) for name in order if name in params}
