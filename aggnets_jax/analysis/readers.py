"""Which convolution reads a link first, and in which of its input channels; found by trying.

The links of a source are given the weight NaN (see `links.py`). It spreads to just what is computed
from them, zeros included, so that a convolution's NaN channels are those of the source: exactly,
whatever the network and its values are, and behind normalisations and activations, too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax.analysis.taps import inputs_of
from aggnets_jax.connectivity.links import StageLinks, collection
from aggnets_jax.connectivity.topology import Link
from aggnets_jax.training.state import Variables


class Reader(NamedTuple):
    """What reads a link first.

    Attributes:
      path: of the convolution or linear layer.
      groups: of the convolution, 1 without.
      channels: bool [input channels], those that come from this link and no other of its layer.
    """

    path: tuple[str, ...]
    groups: int
    channels: np.ndarray


def find_readers(
    model: nn.Module,
    variables: Variables,
    stages: Mapping[str, StageLinks],
    image_shape: tuple[int, int, int],
) -> dict[str, dict[Link, Reader]]:
    """Finds the readers of the links of all stages that concatenate.

    A link of layer l is read by the first convolution of this layer's unit, one of the stage's
    output by the first convolution, or the classifier, behind the stage. The network runs once for
    each output of each stage, on one image.

    Args:
      model: the network.
      variables: "params" and "batch_stats".
      stages: of the network, those that have links.
      image_shape: height, width and channels of images.

    Returns:
      By stage, a reader for each link; of those where a layer adds what it reads, so that links
      have no channels of their own, nothing. Links of the output have none where no single
      convolution reads it all, and where the next layer reads it in slices (SeqConv), which are
      sources of their own there.
    """
    calls: dict[tuple[str, ...], int] = {}
    nan_channels = _make_nan_channels(model, stages, image_shape, calls)
    ones = {name: stage.ones() for name, stage in stages.items()}
    readers = {}
    for name, stage in stages.items():
        touched = {}
        for source in sorted({source for _, source in stage.links}):
            mask = stage.ones()
            mask[:, source] = np.nan
            found = nan_channels(variables, {**ones, name: mask})
            touched[source] = {path: np.asarray(found[path]) for path in calls}
        readers[name] = {
            (layer, source): Reader(path, calls[path], channels)
            for layer, (path, own) in _of_layers(name, stages, touched).items()
            for source, channels in own.items()
        }
    return readers


def _make_nan_channels(
    model: nn.Module,
    stages: Mapping[str, StageLinks],
    image_shape: tuple[int, int, int],
    calls: dict[tuple[str, ...], int],
) -> Callable[[Variables, Any], dict[tuple[str, ...], jax.Array]]:
    """Makes the compiled function from masks of links to NaN channels of convolutions' inputs.

    Args:
      model: the network.
      stages: of the network.
      image_shape: height, width and channels of images.
      calls: filled, when the function runs, with the groups of all convolutions, in their order.
    """
    layers = {
        (*name.split("/"), f"layer{number}")
        for name, stage in stages.items()
        for number in range(1, stage.topology.depth + 1)
    }

    # Compiled faster than it would run faster, for it runs on one image.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def nan_channels(variables: Variables, masks: Any) -> dict[tuple[str, ...], jax.Array]:
        touched = {}

        def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            module, path = context.module, context.module.path
            if context.method_name != "__call__":
                return call(*arguments, **keywords)
            if isinstance(module, nn.Conv | nn.Dense):
                calls[path] = getattr(module, "feature_group_count", 1)
                x = arguments[0]
                touched[path] = jnp.isnan(x).any(range(x.ndim - 1)) | touched.get(path, False)
            results = call(*arguments, **keywords)
            # What a layer leaves is whole again, for the next one to be tried by its own links.
            return jax.tree.map(jnp.nan_to_num, results) if path in layers else results

        with nn.intercept_methods(intercept):
            model.apply({**variables, **collection(masks)}, jnp.zeros((1, *image_shape)))
        return touched

    return nan_channels


Touched = Mapping[tuple[str, ...], np.ndarray]
"""Channels of the input of each convolution, bool, in the order of their calls."""


def _of_layers(
    name: str, stages: Mapping[str, StageLinks], touched: Mapping[int, Touched]
) -> dict[int, tuple[tuple[str, ...], dict[int, np.ndarray]]]:
    """By layer of a stage, what reads it, and the channels of each of its sources.

    Args:
      name: of the stage.
      stages: all of them.
      touched: by source, what its links reach.
    """
    stage, within = stages[name], tuple(name.split("/"))
    first, output = inputs_of(stage), stage.topology.depth + 1
    found = {}
    for layer in dict.fromkeys(layer for layer, _ in stage.links):
        sources = stage.topology.sources_of(layer)
        unit = (*within, f"layer{layer - first + 1}")
        reached = [
            path
            for path in touched[sources[0]]
            if (_is_in(path, unit) if layer < output else not _is_in(path, within))
            and any(touched[source][path].any() for source in sources)
        ]
        own = _own({source: touched[source][reached[0]] for source in sources}) if reached else {}
        concatenates = bool(own) and all(channels.any() for channels in own.values())
        if layer < output and not concatenates:
            return {}
        if concatenates and not (layer == output and _takes_slices(reached[0], stages)):
            found[layer] = reached[0], own
    return found


def _is_in(path: tuple[str, ...], module: tuple[str, ...]) -> bool:
    return path[: len(module)] == module


def _takes_slices(path: tuple[str, ...], stages: Mapping[str, StageLinks]) -> bool:
    sliced = (name for name, stage in stages.items() if inputs_of(stage) > 1)
    return any(_is_in(path, tuple(name.split("/"))) for name in sliced)


def _own(channels: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Channels of each source that no other source has."""
    shared = np.sum([*channels.values()], axis=0) > 1
    return {source: each & ~shared for source, each in channels.items()}


def weight_by_channel(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Mean absolute weight by input channel.

    Args:
      kernel: float [..., input channels / groups, output channels].
      groups: of the convolution.

    Returns:
      float64 [input channels], over positions and the output channels that read the channel.
    """
    absolute = np.abs(np.asarray(kernel, np.float64))
    absolute = absolute.mean(axis=tuple(range(absolute.ndim - 2)))
    inputs, outputs = absolute.shape
    return absolute.reshape(inputs, groups, outputs // groups).mean(-1).T.reshape(-1)
