"""The links of a network, and masks that multiply the features that layers read on them.

    masks["stage1"][layer, source]    float32 [N + 2, N + 1]; 1 leaves a link as it is, 0 cuts it

Masks are inputs of a network, so that one compiled function serves for all of them:

    logits, _ = model.apply({**variables, **collection(masks)}, images)

The name of a stage is the path of its module: "stage1", or "stage1/layer2/layers" for a stage
within a block. Layers and sources are numbered as in its topology (N + 1 is the stage's output).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError, unknown

Masks = Mapping[str, Any]
"""Arrays of float32 [N + 2, N + 1] by stage."""


class StageLinks(NamedTuple):
    """The links of a stage.

    Attributes:
      topology: the topology of the stage.
      links: pairs `(layer, source)` that are in use; the links of the stage's output are last. A
        stage of shortcuts has no links of its output, which is the last layer.
    """

    topology: Topology
    links: tuple[Link, ...]

    def ones(self) -> np.ndarray:
        """Return the mask that changes nothing, float32 [N + 2, N + 1]."""
        return np.ones((self.topology.depth + 2, self.topology.depth + 1), np.float32)


def find_links(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, StageLinks]:
    """Find the stages of a network, in the order in which they start, without computing anything.

    The network may be any that contains `Stage`s; its images have (height, width, channels).
    """
    found: dict[str, StageLinks] = {}

    def record(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, Stage) and context.method_name == "__call__":
            topology = module.topology
            first = len(arguments)  # number of the first layer, after the stage's inputs
            last = topology.depth if module.shortcuts else topology.depth + 1
            links = tuple(link for link in topology.links if first <= link[0] <= last)
            found["/".join(module.path)] = StageLinks(topology, links)
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return found


def all_links(stages: Mapping[str, StageLinks]) -> list[tuple[str, Link]]:
    """Return all links of a network, `(stage, (layer, source))`."""
    return [(name, link) for name, stage in stages.items() for link in stage.links]


def masks_without(
    stages: Mapping[str, StageLinks], cut: Iterable[tuple[str, Link]]
) -> dict[str, np.ndarray]:
    """Return masks that cut `(stage, (layer, source))`; raise `UserError` for an absent link."""
    masks = {name: stage.ones() for name, stage in stages.items()}
    for name, link in cut:
        if name not in stages:
            raise unknown("stage", name, stages)
        if link not in stages[name].links:
            raise UserError(_no_link(name, stages[name], link))
        masks[name][link] = 0
    return masks


def _no_link(name: str, stage: StageLinks, link: Link) -> str:
    layer, source = link
    sources = [s for n, s in stage.links if n == layer]
    if not sources:
        layers = sorted({n for n, _ in stage.links})
        if not layers:
            return f"{name} has no links"
        return f"{name} has no layer {layer} with links; allowed: {layers[0]}..{layers[-1]}"
    return f"{name}: layer {layer} does not read {source}; allowed: {', '.join(map(str, sources))}"


def collection(masks: Masks) -> dict[str, Any]:
    """Return the variables `{"links": ...}` that give a network these masks."""
    flat = {(*name.split("/"), "mask"): mask for name, mask in masks.items()}
    return {"links": traverse_util.unflatten_dict(flat)}
