"""Networks as feature pyramids: `create_model(name, features_only=True)`, with timm's arguments."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.errors import FlaxError

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.execution import without_loops
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models.levels import Backbone, Levels

PYRAMID = (4, 8, 16, 32)
"""Strides of the levels of networks for large images."""


def find_stages(
    network: nn.Module, image_shape: tuple[int, int, int]
) -> tuple[nn.Module, tuple[int, int, int], dict[str, int]]:
    """Find the endpoints that can be levels.

    Args:
      network: network of the registry.
      image_shape: (height, width, channels) of the images of its paper.

    Returns:
      The network as a backbone, with a classifier that takes images of any size; the shape of the
      images to describe it with; and the strides of "stem", if it has one, and of its stages.
    """
    if getattr(network, "pool", None) == "flatten":
        network = network.clone(pool="global")
    side = max(image_shape[0] // 32 * 32, 32)
    shape = (side, side, image_shape[2])
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    (_, found), _ = jax.eval_shape(
        partial(without_loops(network).init_with_output, train=False), jax.random.key(0), images
    )
    # In the order of computation: JAX sorts dictionaries.
    stages = sorted((k for k in found if k.startswith("stage")), key=lambda k: (len(k), k))
    names = [k for k in ("stem", *stages) if k in found]
    return network, shape, {name: side // found[name].shape[1] for name in names}


def last_of_strides(stages: Mapping[str, int]) -> list[str]:
    """Return the last stage of each stride of `PYRAMID`, or of each stride if one is missing."""
    last = {stride: name for name, stride in stages.items() if name != "stem"}
    chosen = PYRAMID if set(PYRAMID) <= set(last) else sorted(last)
    return [last[stride] for stride in chosen]


def make_features(
    name: str,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
    frozen_stages: int = 0,
    evaluated_norms: Sequence[str] = (),
) -> Levels:
    """Make a feature pyramid of a network.

    Level i >= 1 is the last stage of the i-th of the strides 4, 8, 16 and 32, or of the network's
    own strides if it lacks one of these. Level 0 is what comes before: mostly the stem. Levels are
    activated; those of preactivated networks are ReLU(BN(endpoint)).

    Args:
      name: name of the network.
      network: the network as a classifier.
      image_shape: (height, width, channels) of the images of its paper.
      out_indices: numbers of the levels to return, ascending; None: all.
      output_stride: largest stride of a map, one of the levels' strides: convolutions and poolings
        behind it are dilated instead, see `layers.dilation`. None: the network's own.
      frozen_stages: number of stages that get no gradient, with the stem and all between; their
        normalisations are as in evaluation. 0: none.
      evaluated_norms: shell patterns of paths of normalisations, such as "stage1/*" or "*", that
        are as in evaluation also in training: they normalise by their running averages and don't
        change these.

    Returns:
      A linen module, `module.apply(variables, images, train=...) -> levels`, a tuple of arrays
      [batch, height / stride, width / stride, channels]. `module.feature_info` has the endpoint,
      channels and stride of each. Its variables have the names of the classifier's;
      `module.pretrained(variables)` takes them from trained ones.

    Raises:
      UserError: for a level, stride, stage or path that the network lacks, a stride that it can't
        keep, or loops over layers (`scan`).
    """
    if getattr(getattr(network, "execution", None), "scan", False):
        raise UserError("features_only needs a network without loops over its layers: scan=False")
    network, shape, strides = find_stages(network, image_shape)
    endpoints = _chosen_levels(name, _all_levels(strides), out_indices)
    stages = [stage for stage in strides if stage != "stem"]
    check_whole_number("frozen_stages", frozen_stages, 0, len(stages))
    backbone = Backbone(
        network,
        endpoints,
        tuple(strides[endpoint] for endpoint in endpoints),
        shape,
        frozen=tuple(stages[:frozen_stages]),
        trains_statistics=True,
        evaluated_norms=_checked_norms(network, shape, evaluated_norms),
    )
    if output_stride is not None:
        backbone = _with_output_stride(name, backbone, output_stride, strides)
    return Levels(backbone)


def _all_levels(strides: dict[str, int]) -> dict[int, str]:
    """Return the endpoints that are levels, by their numbers."""
    endpoints = list(strides)
    last = last_of_strides(strides)
    first = min(endpoints.index(n) for n, stride in strides.items() if stride == strides[last[0]])
    if endpoints[first] == "stem":  # its stride is that of level 1
        first += 1
    before = {0: endpoints[first - 1]} if first else {}
    return {**before, **dict(enumerate(last, 1))}


def _chosen_levels(
    name: str, levels: dict[int, str], out_indices: Sequence[int] | None
) -> tuple[str, ...]:
    """Return the endpoints of the chosen levels; None: all."""
    if out_indices is None:
        out_indices = tuple(levels)
    numbers = isinstance(out_indices, Sequence) and all(type(i) is int for i in out_indices)
    if not numbers:
        raise UserError(
            f"out_indices must be numbers of levels such as (1, 2), got {out_indices!r}"
        )
    chosen = tuple(out_indices)
    for index in chosen:
        if index not in levels:
            raise unknown(f"level of {name!r}", str(index), map(str, levels))
    if not chosen or sorted(set(chosen)) != list(chosen):
        raise UserError(f"out_indices must be ascending numbers of levels, got {out_indices!r}")
    return tuple(levels[index] for index in chosen)


def _checked_norms(
    network: nn.Module, shape: tuple[int, int, int], patterns: Sequence[str]
) -> tuple[str, ...]:
    """Return the patterns; raise `UserError` for one that matches no normalisation."""
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise UserError(f"evaluated_norms must be a list of patterns, got {patterns!r}")
    if not patterns:
        return ()
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    statistics = traverse_util.flatten_dict(variables.get("batch_stats", {}))
    paths = {"/".join(path[:-1]) for path in statistics}
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern):
            raise unknown("normalisation", pattern, sorted(paths))
    return tuple(patterns)


def _with_output_stride(
    name: str, backbone: Backbone, output_stride: int, strides: dict[str, int]
) -> Backbone:
    """Return the backbone with an output stride; raise `UserError` if the network can't keep it."""
    if output_stride not in strides.values():
        allowed = ", ".join(map(str, sorted(set(strides.values()))))
        raise UserError(f"output_stride of {name!r} must be one of {allowed}, got {output_stride}")
    now = tuple(min(stride, output_stride) for stride in backbone.strides)
    dilated = dataclasses.replace(backbone, strides=now, output_stride=output_stride)
    images = jax.ShapeDtypeStruct((2, *backbone.image_shape), jnp.float32)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), images)
    rngs = {"dropout": jax.random.key(0)}
    wanted = [backbone.image_shape[0] // stride for stride in now]
    try:
        levels = jax.eval_shape(dilated.apply, variables, images)
        jax.eval_shape(dilated.train, variables, images, rngs)
    except UserError as error:
        problem = str(error)
    except (TypeError, ValueError, FlaxError):  # shapes that don't fit
        problem = "one of its parts depends on the sizes of its maps"
    else:
        if [level.shape[1] for level in levels] == wanted:
            return dilated
        problem = "not all of its subsampling can be replaced by dilation"
    raise UserError(f"{name!r} can't keep an output_stride of {output_stride}: {problem}")
