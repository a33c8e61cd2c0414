"""Restore the network of a workdir."""

from functools import partial
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Sharding, SingleDeviceSharding

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.connectivity.execution import without_loops
from aggnets_jax.connectivity.scan_variables import match_layout
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import PathLike
from aggnets_jax.runtime.distributed import of_first_process
from aggnets_jax.tasks import get_task
from aggnets_jax.training.state import (
    Variables,
    at_seed,
    has_averages,
    model_shapes,
    over_seeds,
    seeds,
)
from aggnets_jax.workdir.checkpoints import Checkpoints


class Restored(NamedTuple):
    """A restored network after `step` updates, with the config and the data set of its run.

    `variables` are "params" and "batch_stats", or their averages if the run has any. With several
    seeds, these are the first axis of each array.
    """

    step: int
    config: ml_collections.ConfigDict
    info: data.DatasetInfo
    model: nn.Module
    variables: Variables

    def variables_at(self, seed: int | None) -> Variables:
        """Return the variables of a seed, which may be None if there is only one.

        Raises:
          UserError: if the run has no such seed, or several and none is chosen.
        """
        there = np.ravel(seeds(self.config)).tolist()
        if seed is None and len(there) > 1:
            allowed = ", ".join(map(str, there))
            raise UserError(f"the run has several networks; choose one by --seed: {allowed}")
        if seed is not None and seed not in there:
            raise unknown("seed", str(seed), map(str, there))
        number = 0 if seed is None else there.index(seed)
        return at_seed(self.variables, number, len(there))


def restore_network(
    workdir: PathLike,
    which: str | int,
    devices: Sharding | jax.Device | None = None,
    *,
    keep_loops: bool = False,
) -> Restored:
    """Restore a network from the directory of its run; no data set is needed.

    `which` is "latest", "best" or the number of a step; if there is no such checkpoint, `UserError`
    is raised. `devices` is the sharding of the variables, or the device for them; None: the first
    of this process. With `keep_loops`, a network with loops over its layers (`model.scan`) keeps
    them, which compiles fast; without, its variables come as those of a network without loops.
    """
    if not isinstance(devices, Sharding):
        devices = SingleDeviceSharding(devices or jax.local_devices()[0])
    with Checkpoints(workdir) as checkpoints:
        # The processes may see different lists of a run that goes on.
        folder, step = of_first_process(partial(checkpoints.find, which))
        config = config_lib.resolve(checkpoints.restore_config(folder, step))
        info = checkpoints.restore_dataset(folder, step)
        model = get_task(config).make_network(config, info.num_classes)
        of_seeds = over_seeds(lambda tree, seed: tree, config.num_seeds, (None, 0))
        shapes = jax.eval_shape(of_seeds, model_shapes(model, info.image_shape), seeds(config))
        variables = checkpoints.restore_variables(
            folder, step, shapes, devices, averaged=has_averages(config)
        )
        if config.model.scan and not keep_loops:
            config.model.scan = False
            model = without_loops(model)
            like = model_shapes(model, info.image_shape)
            variables = over_seeds(partial(match_layout, like=like), config.num_seeds)(variables)
    return Restored(step, config, info, model, variables)
