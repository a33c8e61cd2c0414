"""Batch statistics of a changed network, estimated again from training batches.

Without a link, the features have other means and variances than the normalisations have stored.
Here the stored values are replaced by the mean and variance of all values in a few training
batches: "PreciseBN" (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, Section
3). The running averages of training would weigh the last batches most.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, PartitionSpec

from aggnets_jax import data
from aggnets_jax.connectivity.features import statistics_over
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.training.state import Variables, seeds
from aggnets_jax.workdir.restore import Restored

Changed = Mapping[str, Any]
"""Collections in the place of the variables' own, each array with an axis of changes in front."""


def on_each_device(
    function: Callable[[Variables, Changed, data.Batch], Any],
    mesh: Mesh,
    outputs: PartitionSpec,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[Variables, Changed, data.Batch], Any]:
    """Compile a function that each device runs on its own examples of a batch.

    `outputs` says how the devices' results are put together.
    """
    # Changes and examples are one axis in a convolution, which the compiler can't divide itself.
    inputs = PartitionSpec(), PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    return jax.jit(mapped, compiler_options=compiler_options)


def of_batch(model: nn.Module, variables: Variables, images: jax.Array) -> Any:
    """Compute the mean and variance that each batch normalisation finds in a batch.

    All of them normalise by the batch; everything else, such as dropout, is as in evaluation.
    Images are [batch, height, width, channels], normalised. Returns a collection "batch_stats".
    """

    def by_batch(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        norm = context.module
        if not isinstance(norm, BatchNorm) or not norm.use_running_average:
            return call(*arguments, **keywords)
        # With a momentum of 0 the stored values are this batch's, to the bit.
        norm = norm.clone(parent=norm.scope, use_running_average=False, momentum=0.0)
        return norm(*arguments, **keywords)

    with nn.intercept_methods(by_batch):
        _, updated = model.apply(variables, images, train=False, mutable=["batch_stats"])
    return updated["batch_stats"]


def make_estimate(
    restored: Restored, preprocess: data.Preprocess, mesh: Mesh, num_batches: int
) -> Callable[[Changed], Any]:
    """Read the first batches of the run's training, without its augmentation.

    Random crops that the host takes from images of several sizes are the exception.

    Returns:
      A function from changes to their "batch_stats", over the values of all batches: NumPy arrays.

    Raises:
      UserError: if there are no batch statistics, or no batches.
    """
    model, config = restored.model, restored.config
    if num_batches < 1:
        raise UserError(f"batches for batch statistics must be at least 1, not {num_batches}")
    if not jax.tree.leaves(restored.variables.get("batch_stats", {})):
        raise UserError(f"{config.model.name!r} has no batch statistics to estimate anew")
    mesh_lib.check_divisible("config.batch_size", config.batch_size, mesh.size)
    batches = data.train_batches(
        config.data,
        batch_size=config.batch_size,
        seed=int(np.ravel(seeds(config))[0]),
        sharding=mesh_lib.batch_sharding(mesh),
    )
    batches = list(itertools.islice(batches, num_batches))

    def statistics(variables: Variables, changed: Changed, batch: data.Batch) -> Any:
        images = preprocess(batch, train=False)
        with statistics_over("data"):
            return jax.vmap(lambda c: of_batch(model, {**variables, **c}, images))(changed)

    compiled = on_each_device(statistics, mesh, PartitionSpec())

    def estimate(changed: Changed) -> Any:
        found = [jax.device_get(compiled(restored.variables, changed, batch)) for batch in batches]
        return _of_all([traverse_util.flatten_dict(one) for one in found])

    return estimate


def _of_all(batches: Sequence[Mapping[tuple[str, ...], np.ndarray]]) -> Any:
    """Return the statistics of all values, from those of batches of one size."""
    together = {}
    for path, first in batches[0].items():
        value = np.mean([batch[path] for batch in batches], axis=0, dtype=np.float64)
        if path[-1] == "var":  # within the batches, and between them
            means = [batch[*path[:-1], "mean"] for batch in batches]
            value += np.var(means, axis=0, dtype=np.float64)
        together[path] = value.astype(first.dtype)
    return traverse_util.unflatten_dict(together)
