"""Parameters, multiply-adds, and FLOPs as each paper counts them, without running a network.

`count` gives the parameters and multiply-adds of each part of a network. `count_operations` also
counts the elementwise operations that some papers add, from the traced program: a rectifier has one
operation for each element, a pooling one for each value that it reads.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core

from aggnets_jax.connectivity.execution import without_loops
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.runtime.compilation import compile_for


class Count(NamedTuple):
    """Costs of a part of a network for one image.

    Attributes:
      params: trainable scalars.
      macs: multiply-adds of convolutions and linear layers.
      features: values that these layers read and write; an input that several of them read counts
        for each.
    """

    params: int
    macs: int
    features: int


class Operations(NamedTuple):
    """Operations for one image.

    Attributes:
      conv_macs: multiply-adds of the convolutions.
      linear_macs: multiply-adds of the linear layers.
      linear_biases: additions of the biases of linear layers.
      norms: elements of the outputs of batch normalisations, if these are maps, not vectors.
      rectified: elements of the outputs of ReLUs.
      pooled: elements that poolings read.
    """

    conv_macs: int
    linear_macs: int
    linear_biases: int
    norms: int
    rectified: int
    pooled: int


Convention = Callable[[Operations], float]
"""FLOPs of a network in a paper's convention."""


def multiply_adds(operations: Operations) -> float:
    """Return multiply-adds of convolutions and linear layers, as most papers print them."""
    return operations.conv_macs + operations.linear_macs


def two_for_each_multiply_add(operations: Operations) -> float:
    """Return the FLOPs of SparseNet, Table 4: an addition and a multiplication each."""
    elementwise = operations.norms + operations.rectified + operations.pooled
    return 2 * multiply_adds(operations) + elementwise + operations.linear_biases


def with_elementwise(operations: Operations) -> float:
    """Return the FLOPs of HCGNet, Tables 2 and 3, to their digits: 2 for each element of a norm."""
    elementwise = 2 * operations.norms + operations.rectified + operations.pooled
    return multiply_adds(operations) + elementwise


def in_binary_units(operations: Operations) -> float:
    """Return the FLOPs of SeqConv, Table 4: 2^30 to the G, cut off after two decimals.

    Convolutions count as multiply-adds, linear layers as multiplications and additions, each
    element of a norm as four.
    """
    macs = operations.conv_macs + 2 * operations.linear_macs
    total = macs + 4 * operations.norms + operations.rectified + operations.pooled
    return np.floor(100 * total / 2**30) / 100 * 1e9


def count(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Count]:
    """Count the parameters, multiply-adds and features of the parts of a network.

    Norms, biases, activations and elementwise operations are no multiply-adds.

    Args:
      model: network to count.
      input_shape: (height, width, channels) of one image.

    Returns:
      The counts of each part (`stem_conv`, `stage1`, ...), in the order of computation.

    Raises:
      UserError: if images of that shape are too small for the network.
    """
    macs, features = collections.Counter(), collections.Counter()
    order: dict[str, None] = {}

    def count_macs(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        order.update(dict.fromkeys(context.module.path[:1]))
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense):
            part = context.module.path[0]
            macs[part] += _macs(context.module, output)
            features[part] += args[0].size + output.size
        return output

    with compile_for("cpu"), nn.intercept_methods(count_macs):  # as the network is defined
        init = functools.partial(without_loops(model).init_with_output, train=False)
        _, variables = jax.eval_shape(init, jax.random.key(0), _image(input_shape))
    params = {
        name: sum(x.size for x in jax.tree.leaves(part))
        for name, part in variables["params"].items()
    }
    return {
        name: Count(params[name], macs[name], features[name]) for name in order if name in params
    }


def count_operations(model: nn.Module, input_shape: Sequence[int]) -> Operations:
    """Count the operations of a network in evaluation.

    Args:
      model: network to count.
      input_shape: (height, width, channels) of one image.
    """
    modules = dict.fromkeys(("conv_macs", "linear_macs", "linear_biases", "norms"), 0)

    def count_module(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__":
            return output
        if isinstance(module, nn.Conv | nn.Dense):
            linear = isinstance(module, nn.Dense)
            modules["linear_macs" if linear else "conv_macs"] += _macs(module, output)
            if linear and module.use_bias:
                modules["linear_biases"] += output.shape[-1]
        elif isinstance(module, BatchNorm) and np.prod(output.shape[1:-1]) > 1:
            modules["norms"] += int(np.prod(output.shape[1:]))
        return output

    with compile_for("cpu"), nn.intercept_methods(count_module):
        # The initialisation, from which nothing is counted, is part of the program: so the network
        # is traced once.
        init = without_loops(model).init_with_output
        program = jax.make_jaxpr(init)(jax.random.key(0), _image(input_shape))
    rectified = pooled = 0
    for equation in equations(program.jaxpr):
        if equation.params.get("name") == "relu":
            rectified += equation.outvars[0].aval.size  # type: ignore[attr-defined]
        elif equation.primitive.name in ("reduce_window_sum", "reduce_window_max"):
            window = np.prod(equation.params["window_dimensions"])
            pooled += int(equation.outvars[0].aval.size * window)  # type: ignore[attr-defined]
        elif equation.primitive.name == "reduce_sum" and equation.params["axes"] == (1, 2):
            pooled += equation.invars[0].aval.size  # type: ignore[attr-defined]
    return Operations(**modules, rectified=rectified, pooled=pooled)


def _image(input_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)


def _macs(module: nn.Conv | nn.Dense, output: jax.Array) -> int:
    """Return a bound module's multiply-adds for one image: each position takes all weights once."""
    kernel = module.variables["params"]["kernel"]
    return int(np.prod(output.shape[1:-1]) * np.prod(kernel.shape))


def equations(program: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yield all equations of a program; a ReLU is the one equation that calls it."""
    for equation in program.eqns:
        if equation.params.get("name") == "relu":
            yield equation
            continue
        values = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, core.ClosedJaxpr)
        )
        programs = [x.jaxpr for x in values if isinstance(x, core.ClosedJaxpr)]
        if not programs:
            yield equation
        for each in programs:
            yield from equations(each)
