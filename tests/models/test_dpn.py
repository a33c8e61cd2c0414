"""DPN as two paths kept apart, and its sizes in the authors' code and in timm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from tests.models.straight_line import assert_straight_line, max_pool_3
from tests.models.variables import model_info
from tests.patterns import one_line_error

# As of timm's networks of these names.
SIZES = {
    "dpn68": 12_611_602,
    "dpn92": 37_668_392,
    "dpn98": 61_570_728,
    "dpn107": 86_917_800,
    "dpn131": 79_254_504,
}
GMACS = {"dpn68": 2.33, "dpn92": 6.50, "dpn98": 11.67, "dpn107": 18.30, "dpn131": 16.01}


@pytest.mark.parametrize(
    "name",
    [
        "dpn68",
        *(pytest.param(f"dpn{depth}", marks=pytest.mark.slow) for depth in (92, 98, 107, 131)),
    ],
)
def test_sizes(name):
    info = model_info(name)
    assert info.params == SIZES[name]
    assert info.macs == pytest.approx(1e9 * GMACS[name], abs=5e6)
    assert f"{info.params / 1e6:.2f}M" == info.printed.params


TINY = {
    "stage_depths": (3, 2),
    "growth_rate": (2, 3),
    "width": 4,
    "groups": 2,
    "residual": 6,
    "stem_features": 5,
}


def two_paths(groups, activation):
    def unit(layers, x, path, stride):
        x = layers.conv(layers.norm_relu(x, f"{path}/norm1"), f"{path}/conv1")
        x = layers.conv(layers.norm_relu(x, f"{path}/norm2"), f"{path}/conv2", stride, groups)
        return layers.conv(layers.norm_relu(x, f"{path}/norm3"), f"{path}/conv3")

    def reference(layers, images):
        x = max_pool_3(layers.norm_relu(layers.conv(images, "stem_conv", 2), "stem_norm"))
        for stage, depth, residual, stride in ((1, 3, 6, 1), (2, 2, 12, 2)):
            path = f"stage{stage}"
            both = layers.norm_relu(x, f"{path}/projection/norm")
            both = layers.conv(both, f"{path}/projection/conv", stride)
            added, joined = both[..., :residual], both[..., residual:]
            for layer in range(1, depth + 1):
                y = unit(layers, x, f"{path}/layer{layer}", stride if layer == 1 else 1)
                added = added + y[..., :residual]
                joined = np.concatenate([joined, y[..., residual:]], axis=-1)
                x = np.concatenate([added, joined], axis=-1)
        x = activation(layers.norm(x, "head_norm")).mean((1, 2))
        return layers.linear(x, "classifier")

    return reference


def relu(x):
    return np.maximum(x, 0)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@pytest.mark.parametrize(
    ("name", "head", "train"),
    [("dpn68", "relu", True), ("dpn68", "relu", False), ("dpn92", "elu", True)],
)
def test_network_is_two_paths_that_all_layers_read(name, head, train):
    activation = {"relu": relu, "elu": elu}[head]
    overrides = {**TINY, "head_activation": head}
    reference = two_paths(2, activation)
    # The norms of the authors' code, 1e-3.
    assert_straight_line(name, overrides, 16, reference, train, epsilon=1e-3)


def shapes(name, size=32, **overrides):
    model = create_model(name, 7, **overrides)
    (_, endpoints), _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, size, size, 3))
    )
    return {name: value.shape for name, value in endpoints.items()}


@pytest.mark.slow
def test_endpoints_of_the_listed_networks():
    # The residual path, twice the step, and the step for each layer.
    assert shapes("dpn68", 224) == {
        "stem": (2, 56, 56, 10),
        "stage1": (2, 56, 56, 64 + 5 * 16),
        "stage2": (2, 28, 28, 128 + 6 * 32),
        "stage3": (2, 14, 14, 256 + 14 * 32),
        "stage4": (2, 7, 7, 512 + 5 * 64),
        "pre_logits_2d": (2, 7, 7, 832),
        "pre_logits": (2, 832),
        "logits": (2, 7),
    }


def test_other_aggregations_and_topologies():
    assert shapes("dpn92", **TINY, topology="sparse")["stage1"] == (2, 8, 8, 6 + 2 * 2 + 2 * 2)
    assert shapes("dpn92", **TINY, topology="plain")["stage2"] == (2, 4, 4, 12 + 3)
    assert shapes("dpn92", **TINY, aggregation="sum")["stage1"] == (2, 8, 8, 6 + 2)
    assert shapes("dpn92", **TINY, aggregation="concat")["stage1"] == (2, 8, 8, 10 + 3 * 8)


def test_numbers_that_fit_no_network():
    def error(name, **overrides):
        return one_line_error(create_model, name, **overrides)

    assert create_model("dpn", depth=92) == create_model("dpn92")
    assert "nearest 92" in error("dpn90")
    assert "not divisible by groups 40" in error("dpn98", width=100)
    assert "nearest: dual_path" in error("dpn98", aggregation="dualpath")
    assert "stem_kernel must be 3 or 7" in error("dpn98", stem_kernel=5)
