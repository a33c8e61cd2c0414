"""A stage's equal layers as loops: which they are, and their variables (`loops.py` runs them)."""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.connectivity.aggregation import concat, plain
from aggnets_jax.connectivity.scan import Loops, run_layers
from aggnets_jax.connectivity.scan_buffers import Buffer, Channels, Run, Slots, find_runs
from aggnets_jax.connectivity.topology import Topology, make_topology
from aggnets_jax.connectivity.unit import Layer

if TYPE_CHECKING:
    from aggnets_jax.connectivity.stage import Stage

# Into how many runs a stage is cut where each layer reads all before it. With more of them less is
# computed on padding, and they take longer to compile.
MOST_DENSE_RUNS = 5


class Plan(NamedTuple):
    """How a stage is computed in loops.

    Attributes:
      buffer: of its outputs, with the runs of its layers.
      start: makes what the buffer is started with of the outputs that were computed before.
      join: makes of what the buffer gives a layer what the layer is called with, a tuple.
      finish: makes of that and of what the layer puts out what the buffer keeps.
      end: makes the stage's output of what the buffer gives at its end.
      like: shapes and dtypes of what the buffer keeps of a layer.
      widths: of a run, how many channels each of its layers reads, if not all read equally many.
    """

    buffer: Buffer
    start: Callable[[Sequence[Any]], list[Any]]
    join: Callable[[Any], tuple[Any, ...]]
    finish: Callable[[tuple[Any, ...], Any], Any]
    end: Callable[[Any], Any]
    like: Any
    widths: Callable[[Run], list[int] | None] = lambda run: None


def make_plan(
    stage: "Stage", outputs: Sequence[Any], produced: Callable[[Any], Any]
) -> Plan | None:
    """How to compute the layers behind some outputs of a stage, or None if loops don't fit it.

    Args:
      stage: whose `kind` says which layers are equal.
      outputs: y_0, ..., y_i.
      produced: makes of what a layer puts out what others read.
    """
    first = len(outputs)
    topology = stage.topology
    if topology.depth <= first or stage.aggregation not in ("concat", "sum"):
        return None
    if stage.shortcuts:
        return _shortcuts(stage, outputs)
    if stage.aggregation == "sum":
        return _sum(stage, outputs)
    if reads_all(topology) and stage.preactivated and _one_kind(stage):
        return _dense(stage, outputs[0], produced)
    return _concat(stage, outputs)


def reads_all(topology: Topology, first: int = 1) -> bool:
    """Whether each layer from `first` on, and the output, reads all before it in their order."""
    layers = range(first, topology.depth + 2)
    return all(tuple(topology.sources_of(layer)) == tuple(range(layer)) for layer in layers)


def _one_kind(stage: "Stage") -> bool:
    return len({stage.kind(layer) for layer in range(1, stage.topology.depth + 1)}) == 1


def _concat(stage: "Stage", outputs: Sequence[Any]) -> Plan:
    """A concatenation: layers of a run read equally many outputs.

    Statistics are not kept with the outputs: to take and join those of each makes compilation half
    as long again, and takes as long to run as computing them anew.
    """
    topology, first = stage.topology, len(outputs)
    y_0, like = plain(outputs[0]), _like(stage, outputs, lambda output: output)
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

    runs = find_runs(topology, first, key)

    def joined(read: Sequence[Any]) -> Any:
        return concat(read, range(len(read)), 0)

    return Plan(
        Slots(runs, topology.sources_of(topology.depth + 1), apart=apart),
        start=lambda outputs: list(map(plain, outputs)),
        join=lambda read: (joined(read),),
        finish=lambda read, output: output,
        end=joined,
        like=like,
        widths=widths,
    )


def _dense(stage: "Stage", y_0: Any, produced: Callable[[Any], Any]) -> Plan:
    """A concatenation of all before, in one array whose first channels a run reads."""
    depth = stage.topology.depth
    size = -(-depth // MOST_DENSE_RUNS)
    runs = find_runs(stage.topology, 1, lambda layer: (layer - 1) // size, fill=True)
    like = _like(stage, [y_0], produced)
    input_width, width = plain(y_0).shape[-1], plain(like).shape[-1]
    return Plan(
        Channels(runs, input_width, width),
        start=list,
        join=lambda read: (read,),
        finish=lambda read, output: produced(output),
        end=lambda read: read,
        like=like,
        widths=lambda run: [
            input_width + (layer - 1) * width for layer in range(run.first, run.last + 1)
        ],
    )


def _sum(stage: "Stage", outputs: Sequence[Any]) -> Plan:
    """A sum of what is read, or where all is, the running sum that the buffer then keeps."""
    topology, first = stage.topology, len(outputs)
    total = partial(reduce, operator.add)
    if reads_all(topology, first):
        runs = find_runs(_running(topology), first, stage.kind)
        return Plan(
            Slots(runs, (topology.depth,), apart=False),
            start=lambda outputs: [*outputs[:-1], total(outputs)],
            join=tuple,
            finish=lambda read, output: read[0] + output,
            end=total,
            like=outputs[-1],
        )
    runs = find_runs(topology, first, stage.kind, fill=True)
    return Plan(
        Slots(runs, topology.sources_of(topology.depth + 1), apart=False),
        start=list,
        join=lambda read: (total(read),),
        finish=lambda read, output: output,
        end=total,
        like=outputs[-1],
    )


def _shortcuts(stage: "Stage", outputs: Sequence[Any]) -> Plan | None:
    """Shortcuts from the output before, or from all: then the buffer keeps their sum, too."""
    topology, first = stage.topology, len(outputs)
    layers = range(first, topology.depth + 1)
    runs = find_runs(_running(topology), first, stage.kind)
    buffer = Slots(runs, (topology.depth,), apart=False)
    if all(tuple(topology.sources_of(layer)) == (layer - 1,) for layer in layers):
        return Plan(
            buffer,
            start=list,
            join=lambda read: (read[0], read[0]),
            finish=lambda read, output: output,
            end=lambda read: read[0],
            like=outputs[-1],
        )
    if first == 1 and all(tuple(topology.sources_of(n)) == tuple(range(n)) for n in layers):
        return Plan(
            buffer,
            start=lambda outputs: [(outputs[0], outputs[0])],
            join=lambda read: read[0],
            finish=lambda read, output: (output, read[1] + output),
            end=lambda read: read[0][0],
            like=(outputs[-1], outputs[-1]),
        )
    return None


def _running(topology: Topology) -> Topology:
    """The topology of what a running sum leaves to read: each layer reads the one before it."""
    return make_topology("plain", topology.depth)


def _like(stage: "Stage", outputs: Sequence[Any], produced: Callable[[Any], Any]) -> Any:
    """Shapes and dtypes of the output of a layer that reads the newest of some outputs."""

    def compute(*inputs: Any) -> Any:
        layer = Layer(stage.unit, len(outputs), parent=None)
        keys = {name: jax.random.key(0) for name in ("params", "dropout")}
        return produced(layer.init_with_output(keys, *inputs)[0])

    return jax.eval_shape(compute, *[outputs[-1]] * (1 + stage.shortcuts))


def scan(stage: "Stage", plan: Plan, outputs: Sequence[Any]) -> Any:
    """The output of a stage from y_0, ..., y_i, with its equal layers in loops.

    The variables of a run are those of its layers with an axis of layers in front, in the stage's
    scope under the run's name.
    """
    started = plan.start(outputs)
    like = jax.eval_shape(lambda: plan.like)

    def layer(run: Run, params: Any, rest: Any, read: Any) -> tuple[Any, Any]:
        inputs, name = plan.join(read), f"layer{run.first}"
        rngs = {"dropout": rest["key"]} if "key" in rest else {}
        output, updated = Layer(stage.unit, run.first, parent=None).apply(
            {"params": {name: params}, "batch_stats": {name: rest["batch_stats"]}},
            *inputs,
            rngs=rngs,
            mutable=["batch_stats"],
        )
        return plan.finish(inputs, output), updated.get("batch_stats", {}).get(name, {})

    loops = Loops(plan.buffer, layer, like)
    runs = plan.buffer.runs
    if stage.is_initializing():
        buffer = jax.eval_shape(lambda: plan.buffer.start(started, like))
        for run in runs:
            _init_run(stage, plan, run, buffer)
    params = {run.name: stage.get_variable("params", run.name) for run in runs}
    rest = {
        run.name: {"batch_stats": stage.get_variable("batch_stats", run.name, {})} for run in runs
    }
    if stage.has_rng("dropout"):
        key = stage.make_rng("dropout")
        for run in runs:
            rest[run.name]["key"] = _keys(key, run)
    end, updated = run_layers(loops, params, rest, started)
    if stage.is_mutable_collection("batch_stats") and not stage.is_initializing():
        for name, value in updated.items():
            stage.put_variable("batch_stats", name, value)
    return plan.end(end)


def _keys(key: jax.Array, run: Run) -> jax.Array:
    """A key for each layer of a run, or for its only one."""
    if run.single:
        return jax.random.fold_in(key, run.first)
    layers = jnp.arange(run.first, run.last + 1)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, layers)


def _init_run(stage: "Stage", plan: Plan, run: Run, buffer: Any) -> None:
    """Makes the variables of a run."""
    sources = run.sources[0] if run.single else np.array(run.sources[0], np.int32)
    read = jax.eval_shape(lambda b: plan.buffer.read(b, run, sources), buffer)

    def init(key: jax.Array, cut: int = 0) -> Any:
        inputs = plan.join(jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), read))
        inputs = jax.tree.map(lambda x: x[..., : x.shape[-1] - cut], inputs)
        keys = dict.fromkeys(("params", "dropout"), key)
        variables = Layer(stage.unit, run.first, parent=None).init(keys, *inputs)
        return {name: tree[f"layer{run.first}"] for name, tree in variables.items()}

    key = _keys(stage.make_rng("params"), run)
    variables = init(key) if run.single else jax.vmap(init)(key)
    if not run.single and (widths := plan.widths(run)):
        less = max(widths) - np.array(widths)
        narrower = jax.eval_shape(lambda: init(jax.random.key(0), max(less)))
        variables = jax.tree.map(partial(_zero_beyond, less), variables, narrower)
    for collection, value in variables.items():
        stage.put_variable(collection, run.name, value)


def _zero_beyond(less: np.ndarray, values: jax.Array, narrower: Any) -> jax.Array:
    """Zeros for the channels that a layer of a run does not read, though another does.

    Args:
      less: how many channels each layer reads less than the others do at most [layers].
      values: [layers, ...].
      narrower: the shape of a layer's that reads `max(less)` less.
    """
    for axis, (most, least) in enumerate(zip(values.shape[1:], narrower.shape, strict=True)):
        if most != least:
            read = np.arange(most) < most - less[:, None]
            shape = [len(less), *[1] * axis, most, *[1] * (values.ndim - axis - 2)]
            values = jnp.where(read.reshape(shape), values, 0)
    return values
