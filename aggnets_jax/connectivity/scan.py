"""Loops over the equal layers of a stage, with a gradient of their own.

One buffer holds the outputs of a stage; each layer reads its sources from it, and writes its output
to it. JAX's own gradient of such a loop would keep a copy of the buffer for each step. Here the
gradient is written out instead:

    forward    for l = 1 ... N:  y_l = F_l(read(buffer, l)); write(buffer, l, y_l)
    backward   for l = N ... 1:  compute F_l again, from the same buffer, which has all outputs by
                                 now, and add the gradient of its input to a second buffer

Only two buffers and the memory of one layer are needed, so memory is linear in depth.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from aggnets_jax.connectivity.scan_buffers import Run
from aggnets_jax.connectivity.scan_plan import Plan
from aggnets_jax.connectivity.unit import Layer, Unit


@dataclasses.dataclass(frozen=True, eq=False)
class Loops:
    """The loops of a stage: its unit, and the plan of its buffer."""

    unit: Unit
    plan: Plan

    def layer(self, run: Run, params: Any, rest: Any, read: Any) -> tuple[Any, Any]:
        """Return the values of one layer to keep in the buffer, and its updated running averages.

        `rest` has no gradient: `batch_stats`, and the `key` of dropout if there is one. `read` is
        the layer's input from the buffer. All layers of a run are computed like its first one.
        """
        inputs, name = self.plan.inputs(read), f"layer{run.first}"
        output, updated = Layer(self.unit, run.first, parent=None).apply(
            {"params": {name: params}, "batch_stats": {name: rest["batch_stats"]}},
            *inputs,
            rngs={"dropout": rest["key"]} if "key" in rest else {},
            mutable=["batch_stats"],
        )
        return self.plan.keep(inputs, output), updated.get("batch_stats", {}).get(name, {})


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_layers(
    loops: Loops, params: dict[str, Any], rest: dict[str, Any], outputs: list[Any]
) -> tuple[Any, dict[str, Any]]:
    """Compute all layers of a plan, equal ones in loops.

    Parameters and `rest`, see `Loops.layer`, are by name of run, with an axis of layers unless the
    run is a single layer. The buffer starts with `outputs`.

    Returns:
      The final content of the buffer, and the updated running averages by name of run.
    """
    return _forward(loops, params, rest, outputs)[0]


def _forward(
    loops: Loops, params: dict[str, Any], rest: dict[str, Any], outputs: list[Any]
) -> tuple[Any, Any]:
    layout, updated = loops.plan.buffer, {}
    buffer = layout.start(outputs, loops.plan.like)
    for run in layout.runs:

        def step(buffer: Any, inputs: Any, run: Run = run) -> tuple[Any, Any]:
            layer, sources, params, rest = inputs
            output, updated = loops.layer(run, params, rest, layout.read(buffer, run, sources))
            return layout.write(buffer, layer, output), updated

        inputs = *_layers_and_sources(run), params[run.name], rest[run.name]
        walk = step if run.single else functools.partial(jax.lax.scan, step)
        buffer, updated[run.name] = walk(buffer, inputs)
    return (layout.end(buffer), updated), (buffer, params, rest)


def _backward(loops: Loops, saved: Any, gradients: Any) -> tuple[Any, ...]:
    buffer, params, rest = saved
    layout, params_gradient = loops.plan.buffer, {}
    gradient = layout.end_gradient(buffer, gradients[0])
    for run in reversed(layout.runs):

        def step(gradient: Any, inputs: Any, run: Run = run) -> tuple[Any, Any]:
            layer, sources, params, rest = inputs

            def output(params: Any, read: Any) -> Any:
                return loops.layer(run, params, rest, read)[0]

            _, pull = jax.vjp(output, params, layout.read(buffer, run, sources))
            # Read before anything is added, or XLA would copy the whole buffer for each layer.
            of_output = layout.write_gradient(gradient, layer)
            of_output, gradient = jax.lax.optimization_barrier((of_output, gradient))
            of_params, of_read = pull(of_output)
            return layout.add_gradient(gradient, run, sources, of_read), of_params

        inputs = *_layers_and_sources(run), params[run.name], rest[run.name]
        walk = step if run.single else functools.partial(jax.lax.scan, step, reverse=True)
        gradient, params_gradient[run.name] = walk(gradient, inputs)
    return params_gradient, None, layout.start_gradient(gradient)


run_layers.defvjp(_forward, _backward)


def _layers_and_sources(run: Run) -> tuple[Any, Any]:
    """Return the numbers and sources of the layers of a run, as arrays if there are several."""
    if run.single:
        return run.first, run.sources[0]
    return np.arange(run.first, run.last + 1), np.array(run.sources, np.int32)
