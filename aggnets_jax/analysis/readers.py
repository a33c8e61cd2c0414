"""The convolution that reads a link first, and the input channels that hold the link.

Both are found by trial: the links of a source get the weight NaN (see `links.py`). NaN spreads to
exactly the values that are computed from them, also through zeros, normalisations and activations.
The NaN channels of a convolution's input are therefore the channels of the source, in any network.
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
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

Path = tuple[str, ...]
"""Names of a module and the modules around it."""


class Reader(NamedTuple):
    """The first reader of a link, a convolution or linear layer."""

    path: Path
    groups: int  # of the convolution, 1 without
    channels: np.ndarray  # bool, True for input channels from this link and no other of its layer


def find_readers(
    restored: Restored, stages: Mapping[str, StageLinks]
) -> dict[str, dict[Link, Reader]]:
    """Find the readers of the links of all stages that concatenate.

    The reader of a layer's links is the first convolution of the layer's unit; the reader of the
    stage's output is the first convolution, or the classifier, after the stage. The network runs
    once for each output of each stage, on one image.

    Returns:
      By stage, a reader for each link; nothing where a layer adds what it reads, so that links have
      no channels of their own. Links of the output have no reader if no single convolution reads
      them all, or if the next layer reads it in slices (SeqConv), which are sources of their own
      there.
    """
    calls: dict[Path, int] = {}
    nan_channels = _make_nan_channels(restored, stages, calls)
    ones = {name: stage.ones() for name, stage in stages.items()}
    readers = {}
    for name, stage in stages.items():
        touched = {}
        for source in sorted({source for _, source in stage.links}):
            mask = stage.ones()
            mask[:, source] = np.nan
            found = nan_channels(restored.variables, {**ones, name: mask})
            touched[source] = {path: np.asarray(found[path]) for path in calls}
        readers[name] = {
            (layer, source): Reader(path, calls[path], channels)
            for layer, (path, own) in _of_layers(name, stages, touched).items()
            for source, channels in own.items()
        }
    return readers


def _make_nan_channels(
    restored: Restored, stages: Mapping[str, StageLinks], calls: dict[Path, int]
) -> Callable[[Variables, Any], dict[Path, jax.Array]]:
    """Make the compiled function from masks of links to NaN channels of convolutions' inputs.

    When it runs, it fills `calls` with the groups of all convolutions, in the order of their calls.
    """
    layers = {
        (*name.split("/"), f"layer{number}")
        for name, stage in stages.items()
        for number in range(1, stage.topology.depth + 1)
    }

    # It runs on one image, so that optimising would take longer than it saves.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def nan_channels(variables: Variables, masks: Any) -> dict[Path, jax.Array]:
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
            # NaN goes no further, so that only its own links can bring it to the next layer.
            return jax.tree.map(jnp.nan_to_num, results) if path in layers else results

        images = jnp.zeros((1, *restored.info.image_shape))
        with nn.intercept_methods(intercept):
            restored.model.apply({**variables, **collection(masks)}, images)
        return touched

    return nan_channels


def _of_layers(
    name: str, stages: Mapping[str, StageLinks], touched: Mapping[int, Mapping[Path, np.ndarray]]
) -> dict[int, tuple[Path, dict[int, np.ndarray]]]:
    """Return for each layer of a stage its reader, and the channels of each of its sources.

    `touched` has by source the channels that its links reach in the input of each convolution,
    bool, in the order of the calls.
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
        channels = {source: touched[source][reached[0]] for source in sources if reached}
        shared = np.sum([*channels.values()], axis=0) > 1
        own = {source: each & ~shared for source, each in channels.items()}
        concatenates = bool(own) and all(each.any() for each in own.values())
        if layer < output and not concatenates:
            return {}
        if concatenates and not (layer == output and _takes_slices(reached[0], stages)):
            found[layer] = reached[0], own
    return found


def _is_in(path: Path, module: Path) -> bool:
    return path[: len(module)] == module


def _takes_slices(path: Path, stages: Mapping[str, StageLinks]) -> bool:
    sliced = (name for name, stage in stages.items() if inputs_of(stage) > 1)
    return any(_is_in(path, tuple(name.split("/"))) for name in sliced)


def weight_by_channel(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Compute the mean absolute weight of each input channel, float64 [input channels].

    The kernel is float [..., input channels / groups, output channels]; the mean is over positions
    and the output channels that read the channel.
    """
    absolute = np.abs(np.asarray(kernel, np.float64))
    absolute = absolute.mean(axis=tuple(range(absolute.ndim - 2)))
    inputs, outputs = absolute.shape
    return absolute.reshape(inputs, groups, outputs // groups).mean(-1).T.reshape(-1)
