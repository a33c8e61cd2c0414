"""The stage: the loop over layers that combines a topology, an aggregation and a unit.

    reading    y_l = F_l(aggregate of y_s over the sources s of l)
               output: the aggregate over the sources of the virtual layer N + 1
               (SparseNet, arXiv 1801.05895, eq. 2; DenseNet)

    shortcuts  y_l = F_l(y_{l-1}, aggregate of y_s over the sources s of l)
               output: y_N (ResNet; DSNet, arXiv 2010.12496, eq. 12)

The sources come from `topology.py`, the aggregate from `aggregation.py`, and F is the unit
(`unit.py`). `Stage.__call__` is this recursion; the rest concerns how it is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import Scope, lift

from aggnets_jax.connectivity.aggregation import Aggregation, make_aggregation
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.features import Masked, WithStatistics, with_statistics
from aggnets_jax.connectivity.scan import Loops, run_layers
from aggnets_jax.connectivity.scan_plan import Plan, make_plan
from aggnets_jax.connectivity.scan_variables import init_run, keys_of_run
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.connectivity.unit import Layer, Unit, make_layer
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.compilation import barrier_on_cpu

Read = Callable[[Sequence[Any], int], Any]
"""`read(outputs, layer)` returns the aggregate that a layer of the topology reads."""


class Stage(nn.Module):
    """Layers at one resolution; layer l is the submodule `layer{l}`.

    The collection "links" may have the variable `mask`, a float array [N + 2, N + 1]. Then
    `mask[layer, source]` multiplies the features that the layer reads on this link (see
    `links.py`): an addend of a sum, or channels of a concatenation. A link of weight 0 has no
    effect at all.

    Attributes:
      topology: the sources of each layer; its depth is the number of layers.
      unit: function that makes the module F of layer 1..N: `unit(layer, name=...)`, or
        `unit(name=...)` if all layers are alike. The module gets the aggregate [batch, height,
        width, channels]; in a stage of shortcuts it gets the previous output and the aggregate.
      aggregation: a name such as "concat", or a function that makes a new aggregation.
      projection: `projection(name=...)` makes a module whose output replaces y_0 for the layers
        from 2 on, if one of them reads y_0. Layer 1 reads y_0 without the projection, as in the
        first block of a residual stage, where only the shortcut is projected.
      shortcuts: whether the aggregate is a second input of a layer, beside the previous output.
      preactivated: whether the layers and the reader of the stage normalise and activate before
        they convolve. If so, they get masked concatenations as `Masked`, for `common.activate`.
      execution: settings of the computation. With shared statistics, layers and the reader of a
        preactivated stage that concatenates get `WithStatistics` in training.
      train: whether layers normalise by the statistics of the batch.
      kind: `kind(layer)`; layers of one kind compute the same function and can share a loop. By
        default each layer has its own kind.
    """

    topology: Topology
    unit: Unit
    aggregation: str | Callable[[], Aggregation] = "concat"
    projection: Callable[..., nn.Module] | None = None
    shortcuts: bool = False
    preactivated: bool = False
    execution: Execution = Execution()
    train: bool = False
    kind: Callable[[int], Any] = lambda layer: layer

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        """Compute the output of the stage from its input y_0 [batch, height, width, channels].

        With i + 1 inputs, these are y_0, ..., y_i of the topology, and its layers i + 1, i + 2, ...
        are the modules `layer1`, `layer2`, ... Inputs and outputs may be pytrees if the aggregation
        and the units take them.

        Returns:
          The output of the stage, [batch, height, width, channels].

        Raises:
          UserError: for a mask of another shape, or outputs that can't be aggregated.
        """
        read = self._reader()
        shares = self.execution.shared_statistics and self._normalises_concatenation
        kept = with_statistics if shares else lambda output: output
        # Made only if something reads it: unread parameters would be counted, and decay.
        projects = self.projection is not None and any(0 in s for s in self.topology.sources[1:])
        scans = self.execution.scan and len(inputs) == 1
        outputs = [x if isinstance(x, Masked | WithStatistics) else kept(x) for x in inputs]
        for position in range(len(inputs), self.topology.depth + 1):
            layer = position - len(inputs) + 1
            if scans and layer == 1 + projects and (plan := make_plan(self, outputs, kept)):
                return self._run_in_loops(plan, outputs)
            outputs.append(kept(barrier_on_cpu(self._run(layer, read, outputs, position))))
            if layer == 1 and projects:
                outputs[0] = kept(self.projection(name="projection")(inputs[0]))
        return outputs[-1] if self.shortcuts else read(outputs, self.topology.depth + 1)

    @property
    def _normalises_concatenation(self) -> bool:
        return self.aggregation == "concat" and self.preactivated and self.train

    def _run(self, layer: int, read: Read, outputs: Sequence[Any], position: int) -> Any:
        """Compute the output of the module `layer{layer}`, layer `position` of the topology."""
        previous = [outputs[-1]] if self.shortcuts else []
        policy = self.execution.remat_policy(self._normalises_concatenation)
        if policy is None:
            return make_layer(self.unit, layer)(*previous, read(outputs, position))

        # Sums are computed outside and kept; a concatenation is computed inside, so that only the
        # outputs of layers are kept.
        concatenates = self.aggregation == "concat"

        def compute(scope: Scope, *inputs: Any) -> Any:
            aggregate = read(inputs[-1], position) if concatenates else inputs[-1]
            return Layer(self.unit, layer, parent=scope)(*inputs[:-1], aggregate)

        kept = {source: outputs[source] for source in self.topology.sources_of(position)}
        compute = lift.checkpoint(compute, policy=policy)
        return compute(self.scope, *previous, kept if concatenates else read(outputs, position))

    def _reader(self) -> Read:
        """Return the function that aggregates the sources of a layer, with the mask if any."""
        aggregate, sources_of = make_aggregation(self.aggregation), self.topology.sources_of
        if not self.has_variable("links", "mask"):
            return lambda outputs, layer: aggregate(outputs, sources_of(layer), layer)
        if self.execution.scan:
            raise UserError("links can't be masked where layers are scanned; set scan=False")
        mask = self.get_variable("links", "mask")
        shape = (self.topology.depth + 2, self.topology.depth + 1)
        if jnp.shape(mask) != shape:  # JAX would read beyond its end
            path = "/".join(self.path)
            raise UserError(f"the mask of {path} has the shape {jnp.shape(mask)}, not {shape}")

        def read(outputs: Sequence[Any], layer: int) -> Any:
            if layer == 1 and isinstance(outputs[0], Masked):  # by the stage before
                return outputs[0].scaled(mask[layer, 0])
            sources = sources_of(layer)
            read = aggregate(outputs, sources, layer, mask[layer, jnp.array(sources)])
            return read.applied() if isinstance(read, Masked) and not self.preactivated else read

        return read

    def _run_in_loops(self, plan: Plan, outputs: Sequence[Any]) -> Any:
        """Compute the stage's output with the layers after `outputs` in loops.

        The variables of a run of layers have an axis of layers in front and the run's name.
        """
        runs, started = plan.buffer.runs, plan.start(outputs)
        if self.is_initializing():
            buffer = jax.eval_shape(lambda: plan.buffer.start(started, plan.like))
            for run in runs:
                variables = init_run(self.unit, plan, run, buffer, self.make_rng("params"))
                if others := {*variables} - {"params", "batch_stats"}:
                    raise UserError(
                        f"loops over layers don't pass on the unit's variables {sorted(others)};"
                        " set scan=False"
                    )
                for collection, value in variables.items():
                    self.put_variable(collection, run.name, value)
        params = {run.name: self.get_variable("params", run.name) for run in runs}
        rest = {r.name: {"batch_stats": self.get_variable("batch_stats", r.name, {})} for r in runs}
        if self.has_rng("dropout"):
            key = self.make_rng("dropout")
            for run in runs:
                rest[run.name]["key"] = keys_of_run(key, run)
        end, updated = run_layers(Loops(self.unit, plan), params, rest, started)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for name, value in updated.items():
                self.put_variable("batch_stats", name, value)
        return plan.end(end)
