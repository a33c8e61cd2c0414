"""Any network of the registry as the backbone of a detector: levels whose strides double."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models.features import find_stages, last_of_strides
from aggnets_jax.models.levels import Backbone
from aggnets_jax.models.registry import create_classifier, input_shape


def make_backbone(
    name: str,
    *,
    endpoints: Sequence[str] | None = None,
    frozen: int = 1,
    trains_statistics: bool = False,
    **overrides: Any,
) -> Backbone:
    """Make a backbone from a network of the registry.

    Args:
      name: name of the network.
      endpoints: names of the stages that are levels, the finest first. Default: the last stage of
        each stride of 4, 8, 16 and 32, or of each stride if the network has not all of these.
      frozen: number of levels that are frozen with all before them; 1: stem and first stage.
      trains_statistics: see `Backbone`; then nothing can be frozen.
      **overrides: arguments of the network, as for `create_model`.

    Raises:
      UserError: for an unknown network, argument or endpoint, or levels whose strides don't double.
    """
    network = create_classifier(name, **overrides)
    network, shape, strides = find_stages(network, input_shape(name))
    stages = {stage: stride for stage, stride in strides.items() if stage != "stem"}
    endpoints = tuple(last_of_strides(stages) if endpoints is None else endpoints)
    for endpoint in endpoints:
        if endpoint not in stages:
            raise unknown(f"level of {name!r}", str(endpoint), stages)
    steps = tuple(stages[endpoint] for endpoint in endpoints)
    if not steps or any(2 * a != b for a, b in pairwise(steps)):
        raise UserError(
            f"levels of a pyramid need strides that double, got {steps or 'no levels'};"
            f" strides of {name!r}: {stages}"
        )
    check_whole_number("frozen", frozen, 0, len(steps))
    if trains_statistics and frozen:
        raise UserError(f"with trains_statistics nothing can be frozen: set frozen=0, not {frozen}")
    return Backbone(network, endpoints, steps, shape, endpoints[:frozen], trains_statistics)
