"""Distributions of dropped and scaled values in training, and their absence in evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import linen as nn

from aggnets_jax import create_model
from aggnets_jax.convert import from_torch, to_torch
from aggnets_jax.layers import common
from aggnets_jax.layers.regularisation import DropBlock, DynamicScale
from tests.marks import mostly_slow
from tests.models.straight_line import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables
from tests.patterns import one_line_error


@functools.partial(jax.jit, static_argnums=0)
def regularised(module, strength, x, seed=0):
    """Apply the module in training at some strength."""
    variables = {"strength": {"value": jnp.float32(strength)}}
    return module.apply(variables, x, rngs={"dropout": jax.random.key(seed)})


def training_logits(model, variables, images, seed):
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    return apply(variables, images, rngs={"dropout": jax.random.key(seed)})[0][0]


# ---- DropBlock


@pytest.mark.parametrize(
    ("block_size", "shape"), [(1, (6, 8)), (2, (8, 8)), (3, (8, 6)), (4, (12, 10)), (7, (9, 7))]
)
def test_dropblock_drops_squares_as_often_as_it_should(block_size, shape):
    images, rate = 6_000, 0.2
    x = jnp.ones((images, *shape, 3))
    y = np.asarray(regularised(DropBlock(block_size, True), rate, x))
    dropped = y[..., 0] == 0
    assert (y == y[..., :1]).all()  # in all channels
    # What is left makes up for what is dropped.
    assert y.mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(y[~dropped], 1 / (1 - dropped.mean()), rtol=1e-5)
    # Nothing is dropped but whole squares within the map.
    square = np.ones((1, block_size, block_size))
    assert (scipy.ndimage.binary_opening(dropped, square) == dropped).all()
    # A position is kept if all squares that hold it are.
    corners = [side - block_size + 1 for side in shape]
    gamma = rate / block_size**2 * np.prod(shape) / np.prod(corners)
    rows, columns = (
        np.convolve(np.ones(corner), np.ones(block_size)).astype(int) for corner in corners
    )
    expected = 1 - (1 - gamma) ** np.outer(rows, columns)
    np.testing.assert_allclose(dropped.mean(0), expected, atol=5 * np.sqrt(0.25 / images))
    assert rate - rate**2 < dropped.mean() <= rate + 0.01


def test_dropblock_wider_than_the_map_drops_all_of_it():
    y = np.asarray(regularised(DropBlock(9, True), 0.3, jnp.ones((3_000, 4, 5, 2))))
    whole = y.reshape(3_000, -1)
    assert (whole == whole[:, :1]).all()
    assert (whole[:, 0] == 0).mean() == pytest.approx(0.3, abs=0.04)


def test_dropblock_drops_nothing_without_strength_and_in_evaluation():
    x = jnp.arange(32.0).reshape(2, 4, 4, 1)
    np.testing.assert_array_equal(regularised(DropBlock(2, True), 0.0, x), x)
    unfilled = DropBlock(2, True).apply({}, x, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(unfilled, x)
    given = {"strength": {"value": jnp.float32(0.5)}}
    np.testing.assert_array_equal(DropBlock(2, False).apply(given, x), x)


def test_dropblock_of_everything_is_zero_and_no_division_by_it():
    assert (regularised(DropBlock(2, True), 4.0, jnp.ones((2, 4, 4, 1))) == 0).all()


def test_dropblock_passes_gradients_where_it_passes_values():
    x = jnp.ones((20, 6, 6, 2))
    gradient = jax.grad(lambda x: regularised(DropBlock(2, True), 0.3, x).sum())(x)
    np.testing.assert_allclose(gradient, regularised(DropBlock(2, True), 0.3, x), rtol=1e-6)


# ---- Dynamic regularisation


def test_dynamic_scales_have_their_ranges_and_are_drawn_anew_for_the_backward_pass():
    images, scale, reach, strength = 20_000, 0.8, 0.75, 0.4
    module = DynamicScale(scale, reach, True)
    x = jnp.ones((images, 2, 1, 3))
    forward = np.asarray(regularised(module, strength, x))
    backward = np.asarray(jax.grad(lambda x: regularised(module, strength, x).sum())(x))
    draws = []
    for factors in (forward, backward):
        assert (factors == factors[:, :1, :1, :1]).all()  # one for an image
        u = (factors[:, 0, 0, 0] - scale) / (strength * reach)
        assert -1.00001 < u.min() < -0.99 < 0.99 < u.max() < 1.00001
        # Uniform: mean 0, variance 1/3, kurtosis 9/5, with errors of 1 / sqrt(images).
        np.testing.assert_allclose([u.mean(), u.var()], [0, 1 / 3], atol=0.02)
        assert np.mean(u**4) == pytest.approx(1 / 5, abs=0.01)
        draws.append(u)
    assert abs(np.corrcoef(*draws)[0, 1]) < 0.04
    assert abs(np.corrcoef(*np.abs(draws))[0, 1]) < 0.04


def test_dynamic_scales_are_the_mean_scale_without_strength_and_in_evaluation():
    x = jnp.arange(12.0).reshape(3, 2, 2, 1)
    train, evaluate = DynamicScale(0.5, 1.0, True), DynamicScale(0.5, 1.0, False)
    np.testing.assert_array_equal(regularised(train, 0.0, x), 0.5 * x)
    np.testing.assert_array_equal(evaluate.apply({}, x), 0.5 * x)
    np.testing.assert_array_equal(train.apply({}, x, rngs={"dropout": jax.random.key(0)}), 0.5 * x)


def test_reach_of_dynamic_scales_grows_with_the_block():
    model = create_model("mdnet", **TINY["mdnet"][0], dynamic_regularisation=True)
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, DynamicScale):
            seen.append(("/".join(context.module.path), context.module.reach))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    paths, reaches = zip(*seen, strict=True)
    assert paths == (
        "stage1/layer1_scale",
        "stage1/layer2_scale",
        "stage2_opening_scale",
        "stage2/layer1_scale",
        "stage3_opening_scale",
        "stage3/layer1_scale",
    )
    np.testing.assert_allclose(reaches, np.arange(1, 7) / 6)


def test_branch_scale_is_that_of_the_blocks_outputs():
    name, arguments = "mdnet", {"depth": 3, "alpha": 6, "num_classes": 5}
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    plain = create_model(name, **arguments)
    scaled = create_model(name, **arguments, dynamic_regularisation=True, branch_scale=0.5)
    variables = random_variables(plain, 8, np.float32)
    logits, _ = jit(scaled.apply)(variables, images)
    for stage in ("stage1/layer1", "stage2_opening", "stage3_opening"):
        block = functools.reduce(lambda tree, key: tree[key], stage.split("/"), variables["params"])
        block["output_norm"] = {key: 0.5 * value for key, value in block["output_norm"].items()}
    expected, _ = jit(plain.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "tiny"),
    [
        ("resnet_three_stages", {"depth": 20}),
        ("wrn", {"depth": 22}),
        ("preact_resnet", {"depth": 29}),
        ("pyramidnet", {"depth": 20}),
    ],
)
def test_blocks_that_could_share_a_loop_have_reaches_of_their_own(family, tiny):
    tiny = {**TINY[family][0], **tiny, "dynamic_regularisation": True}
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, DynamicScale):
            seen.append(context.module.reach)
        return call(*args, **kwargs)

    model = create_model(family, **tiny, scan=True)
    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_allclose(seen, np.arange(1, 10) / 9)


# ---- Networks


@pytest.mark.parametrize(
    ("family", "tiny", "arguments", "strengths"),
    [
        pytest.param(
            *("hcgnet", {"modules": (1, 1), "growth_rate": 4}, {"dropblock": 2}, 1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("mdnet", {"depth": 3, "alpha": 6}, {"dynamic_regularisation": True}, 3),
            marks=pytest.mark.slow,
        ),
        ("pyramidnet", {"depth": 8, "alpha": 6}, {"dynamic_regularisation": True}, 3),
        pytest.param(
            *("resnet_three_stages", {"depth": 8}, {"dynamic_regularisation": True}, 3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("wrn", {"depth": 10, "widening": 1}, {"dynamic_regularisation": True}, 3),
            marks=pytest.mark.slow,
        ),
        ("preact_resnet", {"depth": 11}, {"dynamic_regularisation": True}, 3),
        ("pyramidnet", {"depth": 8, "alpha": 6}, {"stochastic_depth": 0.5}, 0),
    ],
)
def test_evaluation_is_that_of_the_plain_network(family, tiny, arguments, strengths):
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    plain, model = (create_model(family, 5, **tiny, **extra) for extra in ({}, arguments))
    variables = random_variables(plain, 8, np.float32)
    assert set(variables) == {"params", "batch_stats"}
    declared = random_variables(model, 8, np.float32)
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(declared["params"])
    of_strength = declared.get("strength", {})
    assert len(jax.tree.leaves(of_strength)) == strengths
    expected, _ = jit(plain.apply)(variables, images)
    np.testing.assert_array_equal(jit(model.apply)(variables, images)[0], expected)

    @jit
    def train(strength, seed):
        given = {**variables, "strength": jax.tree.map(lambda _: strength, of_strength)}
        return training_logits(model, given, images, seed)

    first, second = train(0.5, 0), train(0.5, 1)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first, train(0.5, 0))
    if strengths:
        expected = jit(functools.partial(training_logits, plain))(variables, images, 0)
        np.testing.assert_allclose(train(0.0, 0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_first_strengths_are_0_however_a_network_is_initialised(train):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    for module in (DropBlock(2, train), DynamicScale(1.0, 1.0, train)):
        variables = module.init(keys, jnp.ones((1, 4, 4, 1)))
        assert variables == {"strength": {"value": 0.0}}
        assert variables["strength"]["value"].dtype == jnp.float32


def test_dropblock_follows_each_transition():
    model = create_model("hcgnet_n1_1_2_k4", dropblock=2)
    variables = random_variables(model, 16, np.float32)
    variables["strength"] = jax.tree.map(lambda _: 0.3, variables["strength"])
    images = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype(np.float32)
    chosen = {"transition1", "transition2", "dropblock1", "dropblock2"}

    @jit  # of what comes behind nothing is compiled
    def outputs_of_chosen(variables, images):
        _, state = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: module.name in chosen,
        )
        return {name: state["intermediates"][name]["__call__"][0] for name in chosen}

    outputs = outputs_of_chosen(variables, images)
    for number, side in ((1, 8), (2, 4)):
        before, after = (outputs[f"{name}{number}"] for name in ("transition", "dropblock"))
        kept = np.asarray(after != 0).all(-1, keepdims=True)
        assert kept.shape == (8, side, side, 1)
        assert 0.5 < kept.mean() < 0.95
        np.testing.assert_allclose(after, np.where(kept, before / kept.mean(), 0), rtol=1e-5)


def test_weights_have_their_names_elsewhere_whatever_is_dropped():
    variables = random_variables(create_model("hcgnet_n1_1_k4"), 8, np.float32)
    weights = to_torch("hcgnet_n1_1_k4", variables)
    back = from_torch("hcgnet_n1_1_k4", weights, dropblock=2, dropout=0.1)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


# ---- Stochastic depth


def test_survival_falls_linearly_with_the_block():
    drop = common.stochastic_depth(0.5, 4, train=True)
    x = jnp.ones((4_000, 2, 2, 1))
    for block in range(1, 5):
        y = np.asarray(drop(block).apply({}, x, rngs={"dropout": jax.random.key(block)}))
        assert (y == y[:, :1, :1]).all()
        rate = block / 8
        assert (y[:, 0, 0, 0] == 0).mean() == pytest.approx(rate, abs=0.03)
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    assert (common.stochastic_depth(0.5, 4, train=False)(4).apply({}, x) == x).all()


@mostly_slow(
    ("family", "arguments", "blocks"),
    [
        ("resnet", {}, 7),
        ("resnet_three_stages", {}, 6),
        ("dsnet_cifar_a", {}, 7),
        ("res2net", {}, 7),
        ("preact_resnet", {}, 6),
        ("sparsenet_sum", {}, 6),
        ("wrn", {"dropout": 0.3}, 6),
        ("pyramidnet", {}, 6),
        ("pyramidnet_imagenet", {}, 16),
        ("mdnet", {"dynamic_regularisation": True}, 6),
    ],
    quick=(0, 2, 4, 6, 7),
)
def test_every_block_is_dropped_with_its_rate(family, arguments, blocks):
    rates = []

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.Dropout) and module.broadcast_dims == (1, 2, 3):
            rates.append(module.rate)
            assert not module.deterministic
        return call(*args, **kwargs)

    tiny, size = TINY[family]
    model = create_model(family, 5, **tiny, **arguments, stochastic_depth=0.4)
    with nn.intercept_methods(record):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        init = functools.partial(model.init, train=True)
        jax.eval_shape(init, keys, jnp.zeros((2, size, size, 3)))
    np.testing.assert_allclose(rates, 0.4 * np.arange(1, blocks + 1) / blocks)


def test_what_a_dropped_block_leaves_is_the_shortcut():
    # Whose new channels are zeros.
    model = create_model("resnet8_cifar", 5, stochastic_depth=0.75)
    variables = random_variables(model, 8, np.float32)
    images = np.random.default_rng(0).standard_normal((400, 8, 8, 3)).astype(np.float32)
    (_, endpoints), _ = jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(
        variables, images, rngs={"dropout": jax.random.key(0)}
    )
    for stage, rate in ((2, 0.5), (3, 0.75)):
        y, x = (np.asarray(endpoints[f"stage{i}"]) for i in (stage, stage - 1))
        dropped = (y[..., x.shape[-1] :] == 0).all((1, 2, 3))
        assert dropped.mean() == pytest.approx(rate, abs=0.1)
        np.testing.assert_array_equal(y[dropped][..., : x.shape[-1]], x[dropped][:, ::2, ::2])


# ---- Arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hcgnet_a1", {"dropblock": -1}, "dropblock must be a whole number of at least 0"),
        ("hcgnet_a1", {"dropblock": 2.5}, "dropblock"),
        *(
            (name, {"branch_scale": 0.5}, "branch_scale needs dynamic_regularisation=True")
            for name in ("mdnet30_a64", "resnet110_cifar", "wrn28_10", "preact_resnet56")
        ),
        ("mdnet30_a64", {"dynamic_regularisation": 1}, "dynamic_regularisation"),
        *(
            (name, {"stochastic_depth": 1.0}, "stochastic_depth must be a number from 0 to 0.99")
            for name in ("mdnet30_a64", "pyramidnet110_a48", "resnet50", "wrn28_10")
        ),
        ("preact_resnet56", {"stochastic_depth": -1}, "stochastic_depth must be"),
        ("res2net50_26w_4s", {"stochastic_depth": 2}, "stochastic_depth must be"),
    ],
)
def test_what_is_not_allowed(name, arguments, message):
    assert message in one_line_error(create_model, name, **arguments)
