"""Learning rates by layer."""

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.training.layer_decay import layer_factors, layers_in_order
from aggnets_jax.training.optimizer import make_optimizer


def test_layers_in_the_order_of_computation():
    model = create_model("sparsenet_bc", 10, growth_rate=4, stage_depths=(11, 2))
    layers = layers_in_order(model, (8, 8, 1))
    first = [f"stage1/layer{n}" for n in range(1, 12)]
    second = ["stage2/layer1", "stage2/layer2"]
    assert layers == ["stem", *first, "transition1", *second, "head", "classifier"]
    loops = create_model("sparsenet_bc", 10, growth_rate=4, stage_depths=(11, 2), scan=True)
    assert layers_in_order(loops, (8, 8, 1)) == layers


def test_factors_fall_from_the_last_layer():
    shapes = {
        "backbone": {"stem_conv": {"kernel": (3, 4)}},
        "stage1": {"layer1": {"scale": (4,)}, "layers2_3": {"kernel": (2, 4, 5)}},
        "classifier": {"bias": (2,)},
    }
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda shape: isinstance(shape, tuple))
    order = ["stem", "stage1/layer1", "stage1/layer2", "stage1/layer3", "classifier"]
    factors = layer_factors(params, order, 0.5)
    assert factors["classifier"]["bias"] == 1
    assert factors["stage1"]["layer1"]["scale"] == 0.125
    assert factors["backbone"]["stem_conv"]["kernel"] == 0.0625
    loop = factors["stage1"]["layers2_3"]["kernel"]
    np.testing.assert_array_equal(loop, np.array([0.25, 0.5]).reshape(2, 1, 1))


def test_updates_are_multiplied():
    """Beside the factors of patterns; the learning rate of the last layer is the run's."""
    names = ("stem_conv", "head_norm", "classifier")
    params = {name: {"scale": jnp.ones(3)} for name in names}
    config = config_lib.resolve(
        {
            "optimizer": "lion",
            "schedule": "constant",
            "lr": 0.1,
            "weight_decay": 0.0,
            "layer_decay": 0.5,
            "lr_factors": (("head_norm/.*", 3), ("stem_conv/.*", 0)),
        }
    )
    optimizer, _ = make_optimizer(config, 10, 2.5, lambda: ["stem", "head", "classifier"])
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    for name, expected in zip(names, (0, -0.15, -0.1), strict=True):
        np.testing.assert_allclose(updates[name]["scale"], np.full(3, expected), rtol=1e-6)
