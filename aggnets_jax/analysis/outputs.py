"""Outputs of a network for all images of a split, on the host: logits, or averaged features."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax import data
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

FEATURES = "pre_logits"
"""Endpoint of the features that the classifier reads."""


class Outputs(NamedTuple):
    """Outputs of the readable images of a split.

    Attributes:
      values: logits or features, float32 [n, K].
      labels: int [n].
    """

    values: np.ndarray
    labels: np.ndarray


def split_logits(restored: Restored, batches: data.EvalBatches) -> Outputs:
    """Compute the logits of all images, each once.

    Raises:
      UserError: all images are damaged, or they have several labels.
    """
    return _collect(restored, batches, lambda logits, endpoints: logits)


def split_features(
    restored: Restored, batches: data.EvalBatches, endpoint: str = FEATURES
) -> Outputs:
    """Compute an endpoint of all images, each once; a map is averaged over its positions.

    Args:
      restored: network of a checkpoint, with the variables of one seed.
      batches: batches of the split.
      endpoint: name of the features.

    Raises:
      UserError: there is no such endpoint, all images are damaged, or they have several labels.
    """
    images = jnp.zeros((1, *restored.info.image_shape))
    _, there = jax.eval_shape(restored.model.apply, restored.variables, images)
    if endpoint not in there:
        raise unknown("endpoint", endpoint, there)

    def averaged(logits: jax.Array, endpoints: dict[str, jax.Array]) -> jax.Array:
        found = endpoints[endpoint]
        return found.mean(axis=tuple(range(1, found.ndim - 1)))

    return _collect(restored, batches, averaged)


def _collect(
    restored: Restored, batches: data.EvalBatches, chosen: Callable[..., jax.Array]
) -> Outputs:
    preprocess = data.make_preprocess(restored.config.data, restored.info)

    @partial(jax.jit, compiler_options=compiler_options())
    def step(variables: Variables, batch: data.Batch) -> jax.Array:
        outputs = restored.model.apply(variables, preprocess(batch, train=False), train=False)
        return chosen(*outputs).astype(jnp.float32)

    values, labels = [], []
    for batch in batches:
        if "labels" in batch:
            raise UserError("this analysis is for images with one label each, not for several")
        output = to_host(step(restored.variables, batch))
        real = to_host(batch["mask"])
        values.append(output[real])
        labels.append(to_host(batch["label"])[real])
    found = Outputs(np.concatenate(values), np.concatenate(labels))
    if not len(found.labels):
        raise UserError(f"all {batches.num_examples} images of the evaluation are damaged")
    return found
