"""Weights of links that are trained with a network, and the choice of the remaining links.

A vector has a weight in [0, 1] for each link, in the order of `links.all_links`. The strongest link
into each layer has weight 1. Otherwise a penalty would shrink all weights of a layer together at no
loss, because the layer normalises the aggregate of its links, or scales it by its own parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from aggnets_jax.ablation import PENALTIES
from aggnets_jax.ablation.removal import least_harmful
from aggnets_jax.ablation.sets import StageLink
from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.links import StageLinks, all_links, collection
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.training.state import Variables

# Parts of the trained parameters.
NETWORK, LINKS = "network", "links"

_LEAST = 1e-6  # weight of the strongest link, before it is 1 again, if a step takes all of it


class WeighedLinks(NamedTuple):
    """The links of a network's stages, with their places in a vector of weights.

    `readers` has the number of the layer that reads each, counted over all stages, int32 [links].
    """

    stages: Mapping[str, StageLinks]
    links: Sequence[StageLink]
    readers: np.ndarray

    @classmethod
    def of(cls, stages: Mapping[str, StageLinks]) -> "WeighedLinks":
        """Collect the links of some stages."""
        links = all_links(stages)
        layers = [(name, layer) for name, (layer, _) in links]
        numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
        return cls(stages, links, np.array([numbers[layer] for layer in layers], np.int32))

    def groups(self, number: int) -> np.ndarray:
        """Return the group of each link, int32 [links]: one for all, or one for each stage."""
        names = list(self.stages)
        return np.array([names.index(n) if number > 1 else 0 for n, _ in self.links], np.int32)

    def masks(self, weights: jax.Array) -> dict[str, jax.Array]:
        """Return masks, for `links.collection`, that give the links weights, float32 [links]."""
        masks, begin = {}, 0
        for name, stage in self.stages.items():
            mine = weights[begin : begin + len(stage.links)]
            links = np.array(stage.links, int).reshape(-1, 2).T  # also for a stage without links
            masks[name] = jnp.asarray(stage.ones()).at[tuple(links)].set(mine)
            begin += len(mine)
        return masks

    def step(
        self,
        weights: jax.Array,
        gradients: jax.Array,
        *,
        rate: float,
        strength: float,
        spared: np.ndarray | jax.Array,
    ) -> jax.Array:
        """Return the weights after a step of proximal gradient descent.

        It minimises loss + strength * (the sum of all weights but the `spared` largest). If none is
        spared this is the L1 penalty, whose proximal operator on weights that are not negative
        subtracts rate * strength and stops at 0 (Parikh and Boyd, "Proximal Algorithms", 2014,
        sections 4.2 and 6.5.2); else it is the trimmed penalty, whose operator leaves the largest
        as they are (Bertsimas et al., "The Trimmed Lasso", arXiv 1708.04527). Then the weights of
        the links into each layer are divided by the strongest.

        Weights, in [0, 1], and gradients of the loss are float32 [links]. `rate` is the length of
        the step, `strength` in loss by weight, and `spared` int [1], or for each stage [stages].
        """
        moved = weights - rate * gradients
        groups = self.groups(len(spared))
        # Links of a group follow each other, in the given order and in this one.
        order = jnp.lexsort((-moved, groups))
        rank = jnp.arange(len(groups)) - np.searchsorted(groups, groups)
        penalised = jnp.zeros_like(moved).at[order].set(rank >= jnp.asarray(spared)[groups])
        shrunk = jnp.maximum(moved - rate * strength * penalised, 0)
        is_strongest = moved == self._strongest(moved)
        shrunk = jnp.where(is_strongest, jnp.maximum(shrunk, _LEAST), shrunk)
        return shrunk / self._strongest(shrunk)

    def _strongest(self, weights: jax.Array) -> jax.Array:
        """Return the largest weight of the links into the same layer, [links]."""
        number = int(self.readers.max()) + 1
        return jax.ops.segment_max(weights, self.readers, number)[self.readers]

    def cut(
        self, weights: np.ndarray, keep: Sequence[int] | None
    ) -> tuple[list[StageLink], list[StageLink]]:
        """Choose the links to cut: the weakest that the network can do without.

        In a network every layer reads something, and is read. If a link is the last that does so
        for a layer, it stays, and the next one is cut in its place.

        Weights are float32 [links]. `keep` is the number of links to keep, or of each stage; more
        are kept if so few make no network. None keeps the links with any weight. Returns the links
        to cut, and the weak links that stay because they are needed.
        """
        cut, needed = [], []
        groups = self.groups(1 if keep is None else len(keep))
        for group in range(groups.max() + 1):
            # Among equal weights the longest link goes first.
            order = sorted(
                np.flatnonzero(groups == group),
                key=lambda i: (weights[i], self.links[i][1][1] - self.links[i][1][0]),
            )
            number = len(order) - keep[group] if keep else sum(weights[i] == 0 for i in order)
            # Without a number, no link with a weight goes.
            ordered = [self.links[i] for i in order][: None if keep else number]
            found = _first_possible(self.stages, ordered, number)
            cut += found
            # Links before the last one that is cut, and links without a replacement.
            tried = max([number, *(ordered.index(link) for link in found)])
            needed += [link for link in ordered[:tried] if link not in found]
        return cut, needed


def _first_possible(
    stages: Mapping[str, StageLinks], ordered: Sequence[StageLink], number: int
) -> list[StageLink]:
    """Return the first links of an order that can be cut, `number` of them if possible."""
    while True:
        try:
            return least_harmful(stages, ordered, number)[0]
        except UserError:
            number -= 1


class Penalty(NamedTuple):
    """A penalty on the weights of links.

    For the first third of the steps all weights are 1, so that there is a network before its links
    are judged. In the second third the penalty is on all weights, which orders them by their worth;
    in the last "topk" leaves the K strongest alone. The weights' learning rate is such that the
    penalty alone reduces a weight from 1 to 0 in a ninth of the steps.

    Attributes:
      name: "l1", on the weights of all links, or "topk", on all but the K strongest.
      strength: loss per unit of weight; a weight stays if it lowers the loss by more.
      keep: K, or the K of each stage: the links that are left in the end. None, with "l1": the
        links with any weight then.
    """

    name: str
    strength: float
    keep: tuple[int, ...] | None = None

    def check(self, links: WeighedLinks) -> None:
        """Raise `UserError` for values that fit no network, or not this one."""
        if self.name not in PENALTIES:
            raise unknown("penalty", self.name, PENALTIES)
        check_number("the strength of the penalty", self.strength, 1e-6, 1e6)
        if self.keep is None:
            if self.name == "topk":
                raise UserError("the penalty topk needs the number of links to keep: --keep=K")
            return
        if len(self.keep) not in (1, len(links.stages)):
            raise UserError(
                f"links to keep are given for {len(self.keep)} stages; there are"
                f" {len(links.stages)}: {', '.join(links.stages)}"
            )
        groups = links.groups(len(self.keep))
        for group, keep in enumerate(self.keep):
            mine = links.readers[groups == group]
            of = f" of {list(links.stages)[group]}" if len(self.keep) > 1 else ""
            least = len(set(mine.tolist()))  # every layer reads something
            check_whole_number(f"the number of links to keep{of}", keep, least, len(mine))

    def rate(self, total_steps: int) -> float:
        """Return the learning rate of the weights."""
        return 9 / (self.strength * total_steps)

    def spared(self, step: jax.Array, total_steps: int) -> np.ndarray | jax.Array:
        """Return the number of strongest links without a penalty, for `WeighedLinks.step`."""
        if self.name == "l1":
            return np.zeros(1, np.int32)
        return jnp.where(3 * step < 2 * total_steps, 0, np.array(self.keep, np.int32))


class WeighedNetwork(NamedTuple):
    """A network with the weights of its links among its parameters."""

    model: nn.Module
    links: WeighedLinks

    @property
    def num_classes(self) -> int:
        """Number of the network's classes."""
        return self.model.num_classes

    @property
    def loss(self) -> str | None:
        """Name of the network's own loss; None if it has none."""
        return getattr(self.model, "loss", None)

    def init(self, *arguments: Any, **keywords: Any) -> Variables:
        """Initialise the network's variables, with weights of 1."""
        variables = self.model.init(*arguments, **keywords)
        ones = jnp.ones(len(self.links.links))
        return {**variables, "params": {NETWORK: variables["params"], LINKS: ones}}

    def apply(self, variables: Variables, *arguments: Any, **keywords: Any) -> Any:
        """Apply the network with the weights of its links."""
        params = variables["params"]
        masks = collection(self.links.masks(params[LINKS]))
        variables = {**variables, "params": params[NETWORK], **masks}
        return self.model.apply(variables, *arguments, **keywords)


def with_links(
    network: optax.GradientTransformation, links: WeighedLinks, penalty: Penalty, total_steps: int
) -> optax.GradientTransformation:
    """Make the optimiser of a `WeighedNetwork`: the network's own, and `WeighedLinks.step`."""

    def init(params: Any) -> Any:
        return network.init(params[NETWORK]), jnp.zeros((), jnp.int32)

    def update(gradients: Any, state: Any, params: Any) -> Any:
        of_network, step = state
        updates, of_network = network.update(gradients[NETWORK], of_network, params[NETWORK])
        weights = links.step(
            params[LINKS],
            gradients[LINKS],
            rate=penalty.rate(total_steps),
            strength=penalty.strength,
            spared=penalty.spared(step, total_steps),
        )
        change = jnp.where(3 * step >= total_steps, weights - params[LINKS], 0)
        return {NETWORK: updates, LINKS: change}, (of_network, step + 1)

    return optax.GradientTransformation(init, update)
