"""Cells found by architecture search, as topologies whose links carry operations.

* NASNet-A: Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR
  2018, arXiv 1707.07012.
* AmoebaNet-A, -B: Real et al., "Regularized Evolution for Image Classifier Architecture Search",
  AAAI 2019, arXiv 1802.01548.
* PNASNet-5: Liu et al., "Progressive Neural Architecture Search", ECCV 2018, arXiv 1712.00559.
* ENAS: Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018, arXiv
  1802.03268.

A cell has two inputs of width F: h0 comes from the previous cell, and h1 from the cell before that.
h2, ... are sums of two operations, see `layers/link_operations.py`. The output concatenates the
states in `out`. In a reduction cell, operations on h0 and h1 have stride 2.
"""

import dataclasses
import re
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.layers.link_operations import (
    Carried,
    Cells,
    FactorisedReduction,
    LinkOperations,
    ReluConvNorm,
)

CELLS = {
    "nasnet_a": (
        """
        h2 = sep5 h0 + sep3 h1
        h3 = sep5 h1 + sep3 h1
        h4 = avg3 h0 + id h1
        h5 = avg3 h1 + avg3 h1
        h6 = sep3 h0 + id h0
        out h1 h2 h3 h4 h5 h6
        """,
        """
        h2 = sep5 h0 + sep7 h1
        h3 = max3 h0 + sep7 h1
        h4 = avg3 h0 + sep5 h1
        h5 = id h3 + avg3 h2
        h6 = sep3 h2 + max3 h0
        out h3 h4 h5 h6
        """,
    ),
    "amoebanet_a": (
        """
        h2 = avg3 h0 + max3 h0
        h3 = sep3 h1 + id h1
        h4 = id h0 + avg3 h1
        h5 = sep3 h0 + sep5 h2
        h6 = avg3 h5 + sep3 h0
        out h1 h3 h4 h6
        """,
        """
        h2 = sep3 h1 + avg3 h0
        h3 = max3 h0 + sep7 h2
        h4 = max3 h1 + max3 h0
        h5 = sep3 h4 + c17 h0
        h6 = avg3 h1 + sep7 h0
        out h2 h3 h4 h5 h6
        """,
    ),
    "amoebanet_b": (
        """
        h2 = c1 h1 + max3 h1
        h3 = id h1 + sep3 h0
        h4 = c1 h1 + sep3 h0
        h5 = c1 h2 + id h2
        h6 = avg3 h1 + c1 h5
        out h0 h3 h4 h6
        """,
        """
        h2 = max2 h0 + max3 h0
        h3 = id h2 + c3 h1
        h4 = dil5 h2 + max3 h2
        h5 = id h3 + sep3 h1
        h6 = avg3 h4 + c1 h3
        out h5 h6
        """,
    ),
    "pnasnet": (
        """
        h2 = sep5 h1 + max3 h1
        h3 = sep7 h0 + max3 h0
        h4 = sep5 h0 + sep3 h0
        h5 = sep3 h4 + max3 h0
        h6 = sep3 h1 + id h0
        out h2 h3 h4 h5 h6
        """,
    )
    * 2,
    "enasnet": (
        """
        h2 = avg3 h1 + sep3 h1
        h3 = id h1 + sep5 h1
        h4 = id h1 + sep5 h0
        h5 = sep3 h0 + sep5 h1
        h6 = avg3 h1 + sep5 h0
        out h2 h3 h4 h5 h6
        """,
        """
        h2 = sep3 h0 + sep3 h0
        h3 = max3 h1 + avg3 h1
        h4 = sep5 h0 + sep5 h3
        h5 = sep3 h0 + id h1
        h6 = max3 h1 + sep5 h0
        out h2 h4 h5 h6
        """,
    ),
}
"""The normal and the reduction cell of each search."""


@dataclasses.dataclass(frozen=True)
class Wiring:
    """A cell: the topology of h0, h1, h2, ..., and pairs of a link and the operations it carries.

    h0 and h1 are the inputs 0 and 1 of the stage, so the sources of layer 1 have no meaning.
    """

    topology: Topology
    carried: tuple[tuple[Link, tuple[Carried, ...]], ...]


def read_cell(name: str, text: str) -> Wiring:
    """Return the wiring of a cell in the notation of `CELLS`.

    Two operations on the same state make one link that carries both. Operations are numbered as
    written.
    """
    sources: list[tuple[int, ...]] = [(0,)]
    carried: dict[Link, tuple[Carried, ...]] = {}
    number = 0
    *sums, out = text.strip().splitlines()
    for layer, line in enumerate(sums, start=2):
        read = [(op, int(state)) for op, state in re.findall(r"(\w+) h(\d)", line.split("=")[1])]
        sources.append(tuple(dict.fromkeys(state for _, state in read)))
        for operation, state in read:
            link = (layer, state)
            carried[link] = (*carried.get(link, ()), Carried(number, operation))
            number += 1
    sources.append(tuple(map(int, re.findall(r"h(\d)", out))))
    return Wiring(Topology(name, tuple(sources)), tuple(carried.items()))


def uniform_cell(topology: Topology, operation: str) -> Wiring:
    """Return the wiring of any topology in which all links carry one operation."""
    links = [link for link in topology.links if 2 <= link[0] <= topology.depth]
    carried = ((link, (Carried(number, operation),)) for number, link in enumerate(links))
    return Wiring(topology, tuple(carried))


class Cell(nn.Module):
    """A cell: its two states at the width F, then a `Stage` whose links carry operations.

    Attributes:
      wiring: topology and operations.
      cells: how operations are made; its width is F.
      reduces: whether operations on the states have stride 2.
      first: whether the previous state is the stem, which is read without a change.
      twice: whether the frame is the authors' of ENAS.
      mean: whether operations are averaged, not added.
      execution: how to compute the stage.
      drop: `drop(name=...)` makes the module that drops an operation's result.
    """

    wiring: Wiring
    cells: Cells
    reduces: bool
    first: bool
    twice: bool
    mean: bool
    execution: Execution
    drop: Any

    @nn.compact
    def __call__(self, x: jax.Array, previous: jax.Array) -> jax.Array:
        """Map the outputs of the cell before and of the one before it to the output."""
        cells, features = self.cells, self.cells.features
        if self.twice and x.shape[-1] != features:
            x = ReluConvNorm(cells, name="state0_first")(x)
        state0 = ReluConvNorm(cells, name="state0")(x)
        state1 = previous
        if previous.shape[1] > x.shape[1]:
            state1 = FactorisedReduction(cells, name="state1")(previous)
        elif previous.shape[-1] != features and not (self.first and not self.twice):
            state1 = ReluConvNorm(cells, name="state1")(previous)
        topology = self.wiring.topology
        return Stage(
            topology,
            unit=lambda name: lambda x: x,
            aggregation=partial(
                LinkOperations,
                cells,
                dict(self.wiring.carried),
                depth=topology.depth,
                reduces=self.reduces,
                mean=self.mean,
                drop=self.drop,
            ),
            execution=self.execution,
            name="nodes",
        )(state0, state1)
