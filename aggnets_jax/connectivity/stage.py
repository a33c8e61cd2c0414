"""The one loop over layers in the package: a topology run over units with an aggregation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import Scope, lift

from aggnets_jax.connectivity.aggregation import (
    Aggregation,
    Masked,
    Measured,
    make_aggregation,
    measured,
)
from aggnets_jax.connectivity.execution import REMAT, Execution
from aggnets_jax.connectivity.scan_plan import Layer, make_plan, scan
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.compilation import barrier_on_cpu


class Stage(nn.Module):
    """Layers at one resolution, in one of two forms.

        reading    y_l = F_l(aggregate of y_s over the sources s of l)
        shortcuts  y_l = F_l(y_{l-1}, aggregate of y_s over the sources s of l)

    In the first the stage's output is the aggregate over the sources of the virtual layer N + 1
    (SparseNet, eq. 2), in the second the output of the last layer (ResNet, DSNet). Layer l is the
    submodule `layer{l}`.

    If the variable `mask` of the collection "links" is there, `mask[layer, source]`, a float array
    [N + 2, N + 1], multiplies what travels on a link (see `links.py`): the addend of a sum, the
    channels of a concatenation. A link of weight 0 contributes nothing to what its layer computes.

    Attributes:
      topology: who reads whom; its depth is the number of layers.
      unit: `unit(layer, name=...)` makes the module of layer 1..N, called with one array
        [batch, height, width, channels], with `shortcuts` with two.
      aggregation: a name such as "concat", or a function that makes a fresh aggregation.
      projection: `projection(name=...)` makes the module whose output stands for y_0 from layer 2
        on, if one of them reads it. Layer 1, which can read nothing but the input, reads it as
        it is, as in the first block of a residual stage, where only the shortcut is projected.
      shortcuts: whether what is aggregated joins what a layer computes from the previous output.
      preactivated: whether layers, and whoever reads the stage, normalise and activate before they
        convolve. What is concatenated then reaches them as `Masked` if there is a mask, which
        `layers.activate` applies behind that.
      execution: how to compute it. With shared statistics a preactivated stage whose layers read
        a concatenation hands them, and whoever reads the stage, `Measured` features.
      train: whether layers normalise by the batch, and so need its statistics.
      kind: of a layer; layers of one kind compute the same function, and can be scanned. By default
        each has its own.
    """

    topology: Topology
    unit: Callable[..., nn.Module]
    aggregation: str | Callable[[], Aggregation] = "concat"
    projection: Callable[..., nn.Module] | None = None
    shortcuts: bool = False
    preactivated: bool = False
    execution: Execution = Execution()
    train: bool = False
    kind: Callable[[int], Any] = lambda layer: layer

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        """Maps the input y_0 to the output of the stage.

        Args:
          *inputs: y_0 [batch, height, width, channels]. If more are given they are y_0, ..., y_i of
            the topology, whose layers i + 1, i + 2, ... are then the layers 1, 2, ... made here.
            Outputs may be pytrees of arrays if the aggregation takes them.

        Raises:
          UserError: for a mask of another shape, or outputs that can't be aggregated.
        """
        read = self._reader()
        # Parameters that nothing reads would be counted, and decay.
        read_later = any(0 in sources for sources in self.topology.sources[1:])
        projects = self.projection is not None and read_later
        shares = self.execution.shared_statistics and self.preactivated and self.train
        produced = measured if shares and self.aggregation == "concat" else lambda output: output
        outputs = [x if isinstance(x, Masked | Measured) else produced(x) for x in inputs]
        for layer in range(1, self.topology.depth - len(inputs) + 2):
            scans = self.execution.scan and layer == 1 + projects and len(inputs) == 1
            if scans and (plan := make_plan(self, outputs, produced)):
                return scan(self, plan, outputs)
            output = self._run(layer, read, outputs, layer + len(inputs) - 1)
            outputs.append(produced(barrier_on_cpu(output)))
            if layer == 1 and projects:
                outputs[0] = produced(self.projection(name="projection")(inputs[0]))
        if self.shortcuts:
            return outputs[-1]
        return read(outputs, self.topology.depth + 1)

    def _run(
        self, layer: int, read: Callable[..., Any], outputs: Sequence[Any], position: int
    ) -> Any:
        """The output of layer 1, 2, ..., which is at some position in the topology."""
        previous = [outputs[-1]] if self.shortcuts else []
        joins = self.aggregation == "concat"
        remat = self.execution.resolved_remat(joins and self.preactivated and self.train)
        if remat == "none":
            return self.unit(layer, name=f"layer{layer}")(*previous, read(outputs, position))
        # To be kept are what layers put out and sums of it, but no concatenations.
        kept = {source: outputs[source] for source in self.topology.sources_of(position)}

        def compute(scope: Scope, *inputs: Any) -> Any:
            aggregate = read(inputs[-1], position) if joins else inputs[-1]
            return Layer(self.unit, layer, parent=scope)(*inputs[:-1], aggregate)

        compute = lift.checkpoint(compute, policy=REMAT[remat])
        return compute(self.scope, *previous, kept if joins else read(outputs, position))

    def _reader(self) -> Callable[[Sequence[Any], int], Any]:
        """What makes the aggregate that a layer reads, of the outputs so far."""
        aggregate = make_aggregation(self.aggregation)
        if not self.has_variable("links", "mask"):
            return lambda outputs, layer: aggregate(outputs, self.topology.sources_of(layer), layer)
        if self.execution.scan:
            raise UserError("links can't be masked where layers are scanned; set scan=False")
        mask = self.get_variable("links", "mask")
        shape = (self.topology.depth + 2, self.topology.depth + 1)
        if jnp.shape(mask) != shape:  # JAX would read beyond its end
            path = "/".join(self.path)
            raise UserError(f"the mask of {path} has the shape {jnp.shape(mask)}, not {shape}")

        def read(outputs: Sequence[Any], layer: int) -> Any:
            sources = self.topology.sources_of(layer)
            if layer == 1 and isinstance(outputs[0], Masked):  # as the stage before has left it
                return outputs[0].scaled(mask[layer, 0])
            read = aggregate(outputs, sources, layer, mask[layer, jnp.array(sources)])
            return read.applied() if isinstance(read, Masked) and not self.preactivated else read

        return read
