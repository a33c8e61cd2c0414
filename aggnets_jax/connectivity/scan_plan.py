"""The division of a stage's layers into loops, and the content of a loop's buffer.

Layers that compute the same function of inputs of the same shapes form a run, and one loop computes
them (`scan.py`). There are five cases:

    shortcuts from the previous output     the buffer keeps the outputs
    shortcuts from all outputs             the buffer keeps pairs (output, running sum)
    sum of all outputs                     the buffer keeps the running sum
    other sums, concatenations             the buffer keeps the outputs
    concatenation of all outputs           the buffer is the concatenation itself

In the last case no two layers read the same width, so layers of similar width form a run. Their
inputs are padded to the widest, and the weights of channels that a layer does not read are and stay
zero.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.connectivity.aggregation import concat
from aggnets_jax.connectivity.features import without_statistics
from aggnets_jax.connectivity.scan_buffers import Buffer, Channels, Run, Slots, find_runs
from aggnets_jax.connectivity.topology import Topology, make_topology
from aggnets_jax.connectivity.unit import Layer, Unit

MOST_DENSE_RUNS = 5
"""Runs of a stage whose layers read all before them. With more runs less is computed on padding,
but compilation takes longer."""

Kept = Callable[[Any], Any]


class Plan(NamedTuple):
    """Plan of the computation of a stage in loops.

    Attributes:
      buffer: the layout of the buffer, with the runs of layers.
      like: shapes and dtypes of the values that the buffer keeps of one layer.
      inputs: `inputs(read)` returns the inputs of a layer, a tuple, from the value read in the
        buffer.
      end: `end(read)` returns the stage's output from the final content of the buffer.
      start: `start(outputs)` returns the initial content of the buffer; default y_0, ..., y_i.
      keep: `keep(inputs, output)` returns the values that the buffer keeps; default the output.
      widths: `widths(run)` returns how many channels each layer of a run reads, or None if all
        read equally many.
    """

    buffer: Buffer
    like: Any
    inputs: Callable[[Any], tuple[Any, ...]]
    end: Callable[[Any], Any]
    start: Callable[[Sequence[Any]], list[Any]] = list
    keep: Callable[[tuple[Any, ...], Any], Any] = lambda inputs, output: output
    widths: Callable[[Run], list[int] | None] = lambda run: None


def make_plan(stage: Any, outputs: Sequence[Any], kept: Kept) -> Plan | None:
    """Return how to compute the layers after some outputs in loops, or None if loops don't fit.

    The outputs y_0, ..., y_i of the `Stage` are computed before; `kept(output)` returns an output
    in the form in which other layers read it.
    """
    first, topology = len(outputs), stage.topology
    if topology.depth <= first or stage.aggregation not in ("concat", "sum"):
        return None
    if stage.shortcuts:
        return _shortcuts(stage, outputs)
    if stage.aggregation == "sum":
        return _sum(stage, outputs)
    kinds = {stage.kind(layer) for layer in range(1, topology.depth + 1)}
    if len(kinds) == topology.depth:  # No two layers are equal; their widths may differ, too.
        return None
    if first == 1 and _reads_all(topology, first) and stage.preactivated and len(kinds) == 1:
        return _dense(stage, outputs[0], kept)
    return _concat(stage, outputs)


def _reads_all(topology: Topology, first: int) -> bool:
    """Return whether the output and each layer from `first` on read all before in order."""
    layers = range(first, topology.depth + 2)
    return all(topology.sources_of(layer) == tuple(range(layer)) for layer in layers)


def _concat(stage: Any, outputs: Sequence[Any]) -> Plan:
    """Plan a concatenation; layers of a run read equally many outputs.

    The buffer keeps no statistics: to take and join them for each output takes half as long again
    to compile, and as long to run as computing them again.
    """
    first, topology = len(outputs), stage.topology
    y_0, like = without_statistics(outputs[0]), _output_like(stage.unit, first, outputs[-1])
    apart = jax.tree.map(jnp.shape, y_0) != jax.tree.map(jnp.shape, like)
    input_width, width = (jax.tree.leaves(y)[0].shape[-1] for y in (y_0, like))

    def key(layer: int) -> Any:
        *near, far = topology.sources_of(layer)
        # A wider y_0 can take the place of the last output that a layer reads, not of others.
        alone = apart and (0 in near or (far == 0 and (not near or input_width < width)))
        return stage.kind(layer), len(near), layer if alone else None

    def widths(run: Run) -> list[int] | None:
        if run.single or not apart or all(0 not in read for read in run.sources):
            return None
        return [
            (len(read) - 1) * width + (input_width if 0 in read else width) for read in run.sources
        ]

    def joined(read: Sequence[Any]) -> Any:
        return concat(read, range(len(read)), 0)

    return Plan(
        Slots(find_runs(topology, first, key), topology.output_sources, apart=apart),
        like,
        start=lambda outputs: list(map(without_statistics, outputs)),
        inputs=lambda read: (joined(read),),
        end=joined,
        widths=widths,
    )


def _dense(stage: Any, y_0: Any, kept: Kept) -> Plan:
    """Plan a concatenation of all earlier outputs, in one array; a run reads its first channels."""
    size = -(-stage.topology.depth // MOST_DENSE_RUNS)
    runs = find_runs(stage.topology, 1, lambda layer: (layer - 1) // size)
    like = _output_like(stage.unit, 1, y_0, kept)
    input_width, width = (without_statistics(y).shape[-1] for y in (y_0, like))
    return Plan(
        Channels(runs, input_width, width),
        like,
        inputs=lambda read: (read,),
        keep=lambda inputs, output: kept(output),
        end=lambda read: read,
        widths=lambda run: [
            input_width + (layer - 1) * width for layer in range(run.first, run.last + 1)
        ],
    )


def _sum(stage: Any, outputs: Sequence[Any]) -> Plan:
    """Plan a sum; where each layer reads all before it, the buffer keeps the running sum."""
    first, topology, like = len(outputs), stage.topology, _like(outputs[-1])
    total = partial(reduce, operator.add)
    if _reads_all(topology, first):
        return Plan(
            _previous(stage, first),
            like,
            start=lambda outputs: [*outputs[:-1], total(outputs)],
            inputs=tuple,
            keep=lambda inputs, output: inputs[0] + output,
            end=total,
        )
    buffer = Slots(find_runs(topology, first, stage.kind), topology.output_sources, apart=False)
    return Plan(buffer, like, inputs=lambda read: (total(read),), end=total)


def _shortcuts(stage: Any, outputs: Sequence[Any]) -> Plan | None:
    """Plan shortcuts from the previous output, or from all: then the buffer keeps their sum, too.

    The output of the stage is the last layer, so only the sources of layers count.
    """
    first, topology, like = len(outputs), stage.topology, _like(outputs[-1])
    read = {layer: topology.sources_of(layer) for layer in range(first, topology.depth + 1)}
    buffer = _previous(stage, first)
    if all(sources == (layer - 1,) for layer, sources in read.items()):
        return Plan(buffer, like, inputs=lambda read: (read[0], read[0]), end=lambda read: read[0])
    if first == 1 and all(sources == tuple(range(layer)) for layer, sources in read.items()):
        return Plan(
            buffer,
            (like, like),
            start=lambda outputs: [(outputs[0], outputs[0])],
            inputs=lambda read: read[0],
            keep=lambda inputs, output: (output, inputs[1] + output),
            end=lambda read: read[0][0],
        )
    return None


def _previous(stage: Any, first: int) -> Slots:
    """Return a buffer from which each layer reads the previous slot only, and the end the last."""
    depth = stage.topology.depth
    return Slots(find_runs(make_topology("plain", depth), first, stage.kind), (depth,), apart=False)


def _like(output: Any) -> Any:
    return jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), output)


def _output_like(unit: Unit, layer: int, read: Any, kept: Kept = lambda output: output) -> Any:
    """Return shapes and dtypes of the output of a layer that reads `read`, as it is kept."""

    def compute(read: Any) -> Any:
        keys = {name: jax.random.key(0) for name in ("params", "dropout")}
        return kept(Layer(unit, layer, parent=None).init_with_output(keys, read)[0])

    return jax.eval_shape(compute, read)
