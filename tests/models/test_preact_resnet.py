"""The dense topology is an ordinary residual network; the sparse one is eq. 2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.layers.convolution import convolve
from tests.models import residual_numpy
from tests.models.variables import random_variables

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# Adding in another order would show in the last bit, so that both have one convolution.
Conv = functools.partial(nn.Conv, padding=0, use_bias=False, conv_general_dilated=convolve)


class Bottleneck(nn.Module):
    width: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x):
        def norm_relu(name, x):
            norm = BatchNorm(not self.train, x.dtype, name=name)  # flax shifts no variance
            return nn.relu(norm(x))

        pad = [(1, 1), (1, 1)]
        x = norm_relu("norm1", x)
        x = Conv(self.width, (1, 1), name="conv1")(x)
        x = norm_relu("norm2", x)
        x = Conv(self.width, (3, 3), self.stride, padding=pad, name="conv2")(x)
        x = norm_relu("norm3", x)
        return Conv(4 * self.width, (1, 1), name="conv3")(x)


class ResidualStage(nn.Module):
    width: int
    stride: int
    blocks: int
    train: bool

    @nn.compact
    def __call__(self, x):
        for block in range(1, self.blocks + 1):
            first = block == 1
            residual = Bottleneck(
                self.width, self.stride if first else 1, self.train, name=f"layer{block}"
            )(x)
            shortcut = x
            if first:
                shortcut = Conv(4 * self.width, (1, 1), self.stride, name="projection")(x)
            x = shortcut + residual
        return x


class ResidualNetwork(nn.Module):
    """x = shortcut(x) + F(x), as He et al. have it."""

    blocks: int
    train: bool

    @nn.compact
    def __call__(self, x):
        x = Conv(16, (3, 3), padding=[(1, 1), (1, 1)], name="stem_conv")(x)
        x = ResidualStage(16, 1, self.blocks, self.train, name="stage1")(x)
        x = ResidualStage(32, 2, self.blocks, self.train, name="stage2")(x)
        x = ResidualStage(64, 2, self.blocks, self.train, name="stage3")(x)
        x = BatchNorm(not self.train, x.dtype, name="head_norm")(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dense(10, name="classifier")(x)


def batch(dtype):
    random = np.random.default_rng(1)
    return random.standard_normal((4, 8, 8, 3)).astype(dtype), np.array([3, 1, 4, 1])


def outcome(apply, variables, images, labels):
    """Logits, updated running averages and gradient of `apply(variables) -> logits, updates`."""

    def loss_fn(params):
        logits, updates = apply({**variables, "params": params}, images)
        log_p = jax.nn.log_softmax(logits)
        return -log_p[jnp.arange(len(labels)), labels].mean(), (logits, updates["batch_stats"])

    gradient, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    return {"logits": logits, "batch_stats": batch_stats, "gradient": gradient}


def both(blocks, dtype, train):
    model = create_model(f"preact_resnet{9 * blocks + 2}", dtype=dtype)
    residual = ResidualNetwork(blocks, train)
    variables = random_variables(model, 8, dtype)
    images, labels = batch(dtype)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(
        np.shape, jax.eval_shape(residual.init, jax.random.key(0), images)
    )

    def ours(variables, images):
        (logits, _), updates = model.apply(variables, images, train=train, mutable=["batch_stats"])
        return logits, updates

    def theirs(variables, images):
        return residual.apply(variables, images, mutable=["batch_stats"])

    return [
        jit(outcome, static_argnums=0)(apply, variables, images, labels) for apply in (ours, theirs)
    ]


def assert_equal(actual, expected):
    expected = dict(jax.tree_util.tree_leaves_with_path(expected))
    actual = dict(jax.tree_util.tree_leaves_with_path(actual))
    assert set(actual) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "train", [pytest.param(True, marks=pytest.mark.slow), False], ids=["train", "eval"]
)
def test_dense_sum_is_a_residual_network_bit_for_bit(train):
    assert_equal(*both(2, jnp.float32, train))


def at(tree, path):
    for key in path.split("/"):
        tree = tree[key]
    return tree


def eq_2(variables, images, blocks, aggregation, train):
    params, updated = variables["params"], {}

    def norm_relu(x, path):
        weights, running = at(params, path), at(variables["batch_stats"], path)
        mean, var = running["mean"], running["var"]
        if train:
            mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
            for name, value in (("mean", mean), ("var", var)):
                updated[f"{path}/{name}"] = 0.9 * running[name] + 0.1 * value
        x = (x - mean) / np.sqrt(var + 1e-5) * weights["scale"] + weights["bias"]
        return np.maximum(x, 0)

    def conv(x, path, stride=1):
        return residual_numpy.convolve(x, at(params, path)["kernel"], stride)

    def unit(x, path, stride):
        x = conv(norm_relu(x, f"{path}/norm1"), f"{path}/conv1")
        x = conv(norm_relu(x, f"{path}/norm2"), f"{path}/conv2", stride)
        return conv(norm_relu(x, f"{path}/norm3"), f"{path}/conv3")

    def combine(y, layer):
        read = [y[layer - offset] for offset in (1, 2, 4, 8) if offset <= layer]
        if aggregation == "concat":
            return np.concatenate(read, axis=-1)
        return sum(read) / (len(read) if aggregation == "mean" else 1)

    x = conv(images, "stem_conv")
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        stage = f"stage{i}"
        y = [conv(x, f"{stage}/projection", stride), unit(x, f"{stage}/layer1", stride)]
        for layer in range(2, blocks + 1):
            y.append(unit(combine(y, layer), f"{stage}/layer{layer}", 1))
        x = combine(y, blocks + 1)
    x = norm_relu(x, "head_norm").mean((1, 2))
    return x @ params["classifier"]["kernel"] + params["classifier"]["bias"], updated


@pytest.mark.parametrize(
    ("blocks", "aggregation", "train"),
    [(4, "sum", True), (4, "sum", False), (3, "mean", True), (2, "concat", True)],
)
def test_sparsenet_sum_is_eq_2(blocks, aggregation, train):
    with jax.enable_x64(True):
        model = create_model(
            f"sparsenet_sum{9 * blocks + 2}", dtype=jnp.float64, aggregation=aggregation
        )
        variables = random_variables(model, 8, jnp.float64)
        images, _ = batch(jnp.float64)
        (logits, _), updates = jit(
            lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"])
        )(variables, images)
    expected, updated = eq_2(variables, images, blocks, aggregation, train)
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10)
    norms = len(jax.tree.leaves(variables["batch_stats"]))
    assert len(updated) == (norms if train else 0)
    for path, value in updated.items():
        actual = at(updates["batch_stats"], path)
        np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-10, err_msg=path)


def test_sparse_differs_from_dense_from_three_layers_on():
    def sources(name):
        return [set(s) for s in create_model(name).topologies[0].sources]

    assert sources("sparsenet_sum11") == sources("preact_resnet11")
    assert sources("sparsenet_sum20") != sources("preact_resnet20")
    assert sources("sparsenet_sum20")[-1] == {1, 2}


@pytest.mark.parametrize("aggregation", ["sum", "mean", "concat"])
def test_endpoints_and_parameter_names(aggregation):
    model = create_model("preact_resnet20", 7, aggregation=aggregation)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    (logits, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    joined = 3 if aggregation == "concat" else 1
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 32, 32, 16),
        "stage1": (2, 32, 32, joined * 64),
        "stage2": (2, 16, 16, joined * 128),
        "stage3": (2, 8, 8, joined * 256),
        "pre_logits_2d": (2, 8, 8, joined * 256),
        "pre_logits": (2, joined * 256),
        "logits": (2, 7),
    }
    assert logits.dtype == jnp.float32
    params = variables["params"]
    assert set(params) == {"stem_conv", "stage1", "stage2", "stage3", "head_norm", "classifier"}
    assert set(params["stage2"]) == {"layer1", "layer2", "projection"}
    assert set(params["stage2"]["layer2"]) == {
        f"{part}{i}" for part in ("norm", "conv") for i in (1, 2, 3)
    }


def test_bfloat16_ends_in_float32():
    model = create_model("sparsenet_sum11", dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    (logits, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    assert logits.dtype == jnp.float32
    assert endpoints["stage3"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_depths_are_9n_plus_2():
    built = []
    for depth in range(1, 60):
        try:
            model = create_model("preact_resnet", depth=depth)
        except UserError as error:
            assert "9n + 2, nearest" in str(error)
        else:
            built.append(depth)
            assert [t.depth for t in model.topologies] == [(depth - 2) // 9] * 3
    assert built == [11, 20, 29, 38, 47, 56]
