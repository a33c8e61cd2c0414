"""The one loop over layers in the package: a topology run over units with an aggregation."""

from collections.abc import Callable

import jax
from flax import linen as nn

from aggnets_jax.aggregation import make_aggregation
from aggnets_jax.topology import Topology


class Stage(nn.Module):
    """Layers at one resolution: y_l = F_l(aggregate of y_s over the sources s of l).

    The aggregate over the sources of the virtual layer N + 1 is the stage's output (SparseNet,
    eq. 2). Layer l is the submodule `layer{l}`.

    Attributes:
      topology: who reads whom; its depth is the number of layers.
      unit: `unit(layer, name=...)` makes the module of layer 1..N; called with one array
        [batch, height, width, channels].
      aggregation: "concat", "sum" or "mean".
      projection: `projection(name=...)` makes the module whose output stands for y_0 from layer 2
        on, if one of them reads it. Layer 1, which can read nothing but the input, reads it as
        it is, as in the first block of a residual stage, where only the shortcut is projected.
    """

    topology: Topology
    unit: Callable[..., nn.Module]
    aggregation: str = "concat"
    projection: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps the input y_0 [batch, height, width, channels] to the output of the stage."""
        aggregate = make_aggregation(self.aggregation)
        # Parameters that nothing reads would be counted, and decay.
        read_later = any(0 in sources for sources in self.topology.sources[1:])
        projects = self.projection is not None and read_later
        outputs = [x]
        for layer in range(1, self.topology.depth + 1):
            inputs = aggregate(outputs, self.topology.sources_of(layer))
            outputs.append(self.unit(layer, name=f"layer{layer}")(inputs))
            if layer == 1 and projects:
                outputs[0] = self.projection(name="projection")(x)
        return aggregate(outputs, self.topology.output_sources)
