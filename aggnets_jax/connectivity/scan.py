"""Stages whose equal layers are compiled once, as the bodies of loops.

The outputs of a stage are kept in one buffer, from which each layer takes what it reads and to
which it adds what it puts out. JAX's own gradient of such a loop would keep the buffer as it was
before each of its steps. Here the gradient is written out instead:

    forward    for l = 1 ... N:  y_l = F_l(read(buffer, l)); write(buffer, l, y_l)
    backward   for l = N ... 1:  computes F_l again, from the same buffer, which has all outputs by
                                 then, and adds the gradient of what it read to a second buffer

so that two buffers and what one layer needs are all that is kept: memory is linear in depth.

Layers that compute the same function of inputs of the same shapes make a run, with their variables
in arrays [layers, ...] named `layers{first}_{last}`. A layer that is alone is `layer{l}`, as it is
without loops. Where each layer reads all before it, no two inputs have the same width; there layers
of similar width make a run, with inputs padded to the widest and the weights of what is not read
zero, and these stay zero.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aggnets_jax.connectivity.scan_buffers import Buffer, Run


@dataclasses.dataclass(frozen=True, eq=False)
class Loops:
    """What `run_layers` runs.

    Attributes:
      buffer: of the outputs.
      layer: `layer(run, params, rest, read) -> (output, updated)`, F of one layer of a run from its
        parameters, what else it needs, which has no gradient, and what it reads; with its updated
        running averages.
      like: shapes and dtypes of any output but the first.
    """

    buffer: Buffer
    layer: Callable[..., tuple[Any, Any]]
    like: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_layers(
    loops: Loops, params: dict[str, Any], rest: dict[str, Any], outputs: list[Any]
) -> tuple[Any, dict[str, Any]]:
    """Computes a stage with its equal layers in loops.

    Args:
      loops: what to run.
      params: by run; with an axis of layers in front unless it is of a single layer.
      rest: the same of what has no gradient.
      outputs: y_0, ..., y_i that were computed before.

    Returns:
      What the buffer puts out at its end, and what layers have updated, as `rest` is arranged.
    """
    return _forward(loops, params, rest, outputs)[0]


def _forward(
    loops: Loops, params: dict[str, Any], rest: dict[str, Any], outputs: list[Any]
) -> tuple[Any, Any]:
    buffer, updated = loops.buffer.start(outputs, loops.like), {}
    for run in loops.buffer.runs:

        def step(buffer: Any, inputs: Any, run: Run = run) -> tuple[Any, Any]:
            layer, sources, params, rest = inputs
            read = loops.buffer.read(buffer, run, sources)
            output, updated = loops.layer(run, params, rest, read)
            return loops.buffer.write(buffer, layer, output), updated

        inputs = *_places(run), params[run.name], rest[run.name]
        walk = step if run.single else functools.partial(jax.lax.scan, step)
        buffer, updated[run.name] = walk(buffer, inputs)
    return (loops.buffer.end(buffer), updated), (buffer, params, rest)


def _backward(loops: Loops, kept: Any, gradients: Any) -> tuple[Any, ...]:
    buffer, params, rest = kept
    gradient, params_gradient = loops.buffer.end_gradient(buffer, gradients[0]), {}
    for run in reversed(loops.buffer.runs):

        def step(gradient: Any, inputs: Any, run: Run = run) -> tuple[Any, Any]:
            layer, sources, params, rest = inputs

            def output(params: Any, read: Any) -> Any:
                return loops.layer(run, params, rest, read)[0]

            _, pull = jax.vjp(output, params, loops.buffer.read(buffer, run, sources))
            # Read before anything is added, or XLA would copy the whole buffer for each layer.
            of_output = loops.buffer.write_gradient(gradient, layer)
            of_output, gradient = jax.lax.optimization_barrier((of_output, gradient))
            of_params, of_read = pull(of_output)
            return loops.buffer.add_gradient(gradient, run, sources, of_read), of_params

        inputs = *_places(run), params[run.name], rest[run.name]
        walk = step if run.single else functools.partial(jax.lax.scan, step, reverse=True)
        gradient, params_gradient[run.name] = walk(gradient, inputs)
    return params_gradient, None, loops.buffer.start_gradient(gradient)


run_layers.defvjp(_forward, _backward)


def _places(run: Run) -> tuple[Any, Any]:
    """Number and sources of the layers of a run."""
    if run.single:
        return run.first, run.sources[0]
    return np.arange(run.first, run.last + 1), np.array(run.sources, np.int32)
