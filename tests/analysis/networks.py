"""Networks that no run has trained, with any values, as if restored from a checkpoint."""

import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.evaluate import Restored
from aggnets_jax.models import create_configured_model
from tests import runs
from tests.models.variables import random_variables

_OF_CONFIG = ("topology", "topology_args", "aggregation")


def restored(data_dir, name, **arguments):
    """A network for the digits."""
    model = {"name": name, **{k: arguments.pop(k) for k in _OF_CONFIG if k in arguments}}
    config = config_lib.resolve(runs.tiny_config(data_dir, model={**model, "args": arguments}))
    info = data.describe(config.data)
    network = create_configured_model(config, info.num_classes)
    variables = random_variables(network, 8, np.float32, channels=1)
    return Restored(0, config, info, network, variables)
