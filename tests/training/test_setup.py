"""Checks of a config that need the data set's sizes or the network."""

from types import SimpleNamespace

import pytest
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import Setup, set_up
from tests import runs


def test_steps_to_profile_that_the_run_does_not_come_to_are_refused():
    """100 images are 5 batches of 20, and two epochs 10 steps."""

    def set_up_for(profile_steps):
        changes = {"total_steps": None, "total_epochs": 2.0, "batch_size": 20}
        config = runs.tiny_config(None, profile_steps=profile_steps, **changes)
        config = config_lib.resolve(config)
        return set_up(config, get_task(config), info=runs.DATASET)

    assert set_up_for((9, 10)).total_steps == 10
    with pytest.raises(UserError, match=r"profile_steps must be .* to step 10, the last, got \(10"):
        set_up_for((10, 11))


def test_weights_that_depend_on_the_size_of_images_need_one_size():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            del train
            return nn.Dense(2)(images.reshape(len(images), -1)), {}

    config = config_lib.resolve({"progressive": ((0.0, 4), (0.5, 8))})
    info = SimpleNamespace(image_shape=(8, 8, 1))
    setup = SimpleNamespace(config=config, total_steps=4, info=info, model=Flat())
    with pytest.raises(UserError, match="of the same weights for images of 4 and of 8x8 pixels"):
        Setup.phases.func(setup)
