"""Networks that no run has trained, with any values, as if restored from a checkpoint."""

from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.models import create_configured_model
from aggnets_jax.workdir.restore import Restored
from tests import runs
from tests.models.variables import random_variables

_OF_CONFIG = ("topology", "topology_args", "aggregation")


def restored(data_dir, name, **arguments):
    """Return a network for the digits."""
    model = {"name": name, **{k: arguments.pop(k) for k in _OF_CONFIG if k in arguments}}
    config = config_lib.resolve(runs.tiny_config(data_dir, model={**model, "args": arguments}))
    info = data.describe(config.data)
    network = create_configured_model(config, info.num_classes)
    variables = random_variables(network, 8, np.float32, channels=1)
    return Restored(0, config, info, network, variables)


class Linear(nn.Module):
    """Stages of linear layers with three channels, whose gradients are products of matrices.

    Attributes:
      stages: for each the topology, the aggregation, whether it is one of shortcuts, and into how
        many slices of three channels its input is split.
    """

    stages: tuple[tuple[Topology, str, bool, int], ...]

    @nn.compact
    def __call__(self, images, *, train=False):
        """Map [batch, 1, 1, channels] to logits [batch, 2]."""
        dense = partial(nn.Dense, use_bias=False)
        x = images
        for number, (topology, aggregation, shortcuts, slices) in enumerate(self.stages, start=1):

            def unit(layer, name, shortcuts=shortcuts):
                compute = dense(3, name=name)
                return (lambda previous, read: compute(previous) + read) if shortcuts else compute

            x = dense(3 * slices, name=f"before{number}")(x)
            stage = Stage(topology, unit, aggregation, shortcuts=shortcuts, name=f"stage{number}")
            x = stage(*jnp.split(x, slices, axis=-1))
        return dense(2, name="classifier")(x.mean((1, 2))), {}


def linear(*stages):
    """Return a linear network with random values as if restored, and two images with labels."""
    model = Linear(tuple((*stage, *(False, 1)[len(stage) - 2 :]) for stage in stages))
    images = np.random.default_rng(1).normal(size=(2, 1, 1, 2)).astype(np.float32)
    variables = random_variables(model, 1, np.float32, channels=2)
    info = SimpleNamespace(image_shape=(1, 1, 2))
    return Restored(0, None, info, model, variables), images, np.array([0, 1])


class Walk(NamedTuple):
    """A path from the output of a stage back, and the gradient [3] that comes along it."""

    ends_at: int
    length: int  # layers that it goes through
    links: int
    gradient: np.ndarray


def walks(network, number, gradient):
    """Yield all paths through stage `number` of a linear network, to all of its outputs.

    Args:
      network: as restored.
      number: of the stage.
      gradient: float [channels of the stage's output], that at its output.
    """
    topology, aggregation, shortcuts, slices = network.model.stages[number - 1]
    params = network.variables["params"][f"stage{number}"]

    def split(rows, sources):
        """Split a gradient at the aggregate by source."""
        if aggregation == "sum":
            return [(source, rows) for source in sources]
        return list(zip(sources, np.split(rows, len(sources)), strict=True))

    def walk(layer, length, links, gradient):
        yield Walk(layer, length, links, gradient)
        if layer < slices:
            return
        sources = topology.sources_of(layer)
        kernel = np.asarray(params[f"layer{layer - slices + 1}"]["kernel"], np.float64)
        if shortcuts:
            yield from walk(layer - 1, length + 1, links, kernel @ gradient)
            for source in sources:
                yield from walk(source, length, links + 1, gradient)
            return
        for source, part in split(kernel @ gradient, sources):
            yield from walk(source, length + 1, links + 1, part)

    if shortcuts:
        yield from walk(topology.depth, 0, 0, gradient)
        return
    for source, part in split(gradient, topology.output_sources):
        yield from walk(source, 0, 1, part)


def gradients_behind(network, images, labels):
    """Return the loss's gradients at the output of the last stage, float64 [B, channels]."""
    logits = np.asarray(network.model.apply(network.variables, images)[0], np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kernel = np.asarray(network.variables["params"]["classifier"]["kernel"], np.float64)
    return (chances - np.eye(2)[labels]) @ kernel.T
