"""FractalNet against its recursive definition, and its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.models.fractalnet import DropPath
from tests.models.straight_line import Layers, assert_straight_line, halves, jit
from tests.models.variables import model_info, random_variables
from tests.patterns import one_line_error

# Table 3, with 100 classes.
SIZES = {5: 258_292, 10: 847_716, 20: 2_125_204, 40: 4_778_820, 80: 10_184_692, 160: 21_095_076}


@pytest.mark.parametrize(
    "depth",
    [5, 10, 20, 40, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (80, 160))],
)
def test_sizes_are_the_printed_ones(depth):
    name = f"fractalnet{depth}_w16"
    params = model_info(name, 100).params
    assert params == SIZES[depth]
    assert f"{params / 1e6:.1f}M" == model_info(name).printed.params


def test_sizes_that_do_not_come_out_are_noted():
    # Counted by hand: 3 convolutions of a block read its input, 4 what others put out.
    widths = (64, 128, 256, 512, 512)
    inputs = (3, *widths[:-1])
    convs = sum(
        9 * (3 * i * w + 4 * w * w) + 7 * 2 * w for i, w in zip(inputs, widths, strict=True)
    )
    info = model_info("fractalnet20")
    assert info.params == convs + 512 * 10 + 10 == 33_724_618
    assert info.printed.params == "38.6M"
    assert "33.7M" in info.printed.remark
    assert "not specified" in model_info("fractalnet40").printed.remark


def recursive(columns, blocks):
    """f_{C+1}(z) = (f_C(f_C(z))) joined with conv(z); joins in a row are one join of all."""

    def reference(layers, images):
        x = images
        for block in range(1, blocks + 1):
            # Layers are made in the order of the positions at which they end, short spans first.
            ends = [
                (end, span)
                for end in range(1, 2 ** (columns - 1) + 1)
                for span in (1, 2, 4, 8)
                if end % span == 0 and span <= 2 ** (columns - 1)
            ]
            number = {place: i for i, place in enumerate(ends, start=1)}

            def convolve(z, end, span, block=block, number=number):
                path = f"stage{block}/layer{number[end, span]}"
                return layers.norm_relu(layers.conv(z, f"{path}/conv"), f"{path}/norm")

            def paths(z, start, span):
                """Return the outputs of a fractal's columns at its end, unjoined."""
                own = convolve(z, start + span, span)
                if span == 1:
                    return [own]
                middle = paths(z, start, span // 2)
                middle = sum(middle) / len(middle)
                return [*paths(middle, start + span // 2, span // 2), own]

            x = sum(paths(x, 0, 2 ** (columns - 1))) / columns
            x = halves(x).max(-1)
        return layers.linear(x.mean((1, 2)), "classifier")

    return reference


@pytest.mark.parametrize(
    ("depth", "columns", "train"), [(8, 3, True), (8, 3, False), (2, 1, True), (16, 4, False)]
)
def test_network_is_the_recursion(depth, columns, train):
    overrides = {"widths": (4, 5), "depth": depth}
    assert_straight_line("fractalnet", overrides, 8, recursive(columns, 2), train)


def shapes(name, **overrides):
    model = create_model(name, 7, **overrides)
    (_, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 32, 32, 3))
    )
    return {name: value.shape for name, value in endpoints.items()}, variables["params"]


def test_endpoints():
    endpoints, params = shapes("fractalnet20_w4")
    assert endpoints == {
        "stem": (2, 32, 32, 3),
        "stage1": (2, 32, 32, 4),
        "stage2": (2, 16, 16, 8),
        "stage3": (2, 8, 8, 16),
        "stage4": (2, 4, 4, 32),
        "stage5": (2, 2, 2, 32),
        "pre_logits_2d": (2, 1, 1, 32),
        "pre_logits": (2, 32),
        "logits": (2, 7),
    }
    # Nothing joins a block's input with anything.
    assert set(params["stage2"]) == {f"layer{layer}" for layer in range(1, 8)}


def test_topology_and_aggregation():
    endpoints, params = shapes("fractalnet20_w4", topology="dense")
    assert endpoints["stage2"] == (2, 16, 16, 8)
    assert params["stage2"]["projection"]["kernel"].shape == (1, 1, 4, 8)
    endpoints, params = shapes("fractalnet20_w4", aggregation="concat")
    assert endpoints["stage1"] == (2, 32, 32, 3 * 4)
    assert "projection" not in params["stage1"]


def test_names_and_depths():
    assert create_model("fractalnet", depth=20, width=64) == create_model("fractalnet20")
    assert create_model("fractalnet20_w16") == create_model("fractalnet20", width=16)
    assert "nearest 20" in one_line_error(create_model, "fractalnet21")
    # 15 / 5 is no power of two.
    assert "nearest 10" in one_line_error(create_model, "fractalnet14")


def test_initialisation_looks_at_the_fan_in():
    model = create_model("fractalnet", 50, widths=(32, 64), depth=2)
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for stage, fan_in in (("stage1", 9 * 3), ("stage2", 9 * 32)):
        kernel = np.asarray(params[stage]["layer1"]["conv"]["kernel"])
        bound = np.sqrt(3 / fan_in)
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


# Sources of the joins in a block of three columns, the shortest spans first.
INNER, LAST = (2, 3), (5, 6, 7)


def drawn_weights(rate, draws):
    """Weights of the inputs of joins in blocks 1 and 2, [draws, inputs] each."""
    # Output n is the n-th unit vector.
    outputs = list(jnp.eye(8)[:, None, None, None])

    def draw(key):
        first, second = (DropPath(rate, 3, key, block) for block in (1, 2))
        inner = first(outputs, INNER, 4)
        np.testing.assert_array_equal(first(outputs, (6,), 5), outputs[6])
        return (
            inner[0, 0, 0, INNER[0] :][:2],
            first(outputs, INNER, 6)[0, 0, 0, INNER[0] :][:2],
            first(outputs, LAST, 8)[0, 0, 0, LAST[0] :],
            second(outputs, LAST, 8)[0, 0, 0, LAST[0] :],
        )

    keys = jax.random.split(jax.random.key(0), draws)
    return [np.asarray(weights) for weights in jax.jit(jax.vmap(draw))(keys)]


def test_half_of_the_batches_have_one_column_in_all_of_the_network():
    # Without drops the others have all inputs.
    inner, again, last, elsewhere = drawn_weights(0.0, 6_000)
    np.testing.assert_array_equal(inner, again)
    np.testing.assert_array_equal(last, elsewhere)
    single = last.max(1) == 1
    assert single.mean() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(last[~single], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(inner[~single], 1 / 2, rtol=1e-6)
    columns = last[single].argmax(1)
    np.testing.assert_allclose(np.bincount(columns) / len(columns), 1 / 3, atol=0.04)
    # The inner join is on the way of the two columns that end there.
    assert (inner[single].argmax(1) == np.minimum(columns, 1)).all()


def test_inputs_of_joins_are_dropped_but_for_one():
    draws, rate = 40_000, 0.4
    inner, again, last, elsewhere = drawn_weights(rate, draws)
    np.testing.assert_array_equal(inner, again)  # all who read a join read the same
    assert (last != elsewhere).any()
    for weights in (last, elsewhere):
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        kept = weights > 0
        np.testing.assert_allclose(weights, kept / kept.sum(1, keepdims=True), rtol=1e-6)
        counts = np.bincount(kept @ [1, 2, 4], minlength=8) / draws
        expected = np.zeros(8)
        for subset in range(1, 8):
            size = subset.bit_count()
            expected[subset] = 0.5 * (1 - rate) ** size * rate ** (3 - size)
            if size == 1:
                expected[subset] += 0.5 / 3 + 0.5 * rate**3 / 3
        np.testing.assert_allclose(counts, expected, atol=0.012)


def test_network_trains_as_one_of_its_columns_or_all_of_them():
    # A drop that never happens.
    arguments = {"widths": (4, 5), "depth": 8, "num_classes": 5}
    model = create_model("fractalnet", drop_path=1e-9, **arguments)
    variables = random_variables(model, 8, np.float32)
    images = np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype(np.float32)

    @jit
    def train(variables, images, seeds):
        def logits(seed):
            rngs = {"dropout": jax.random.key(seed)}
            apply = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
            return apply[0][0]

        return jax.vmap(logits)(seeds)

    layers = Layers(variables, train=True)
    results = [recursive(3, 2)(layers, images)]
    for column in ((1, 2, 4, 5), (3, 6), (7,)):
        x = images
        for block in (1, 2):
            for number in column:
                path = f"stage{block}/layer{number}"
                x = layers.norm_relu(layers.conv(x, f"{path}/conv"), f"{path}/norm")
            x = halves(x).max(-1)
        results.append(layers.linear(x.mean((1, 2)), "classifier"))

    # [seeds, networks]
    got, wanted = train(variables, images, jnp.arange(24)), np.stack(results)
    distances = np.abs(got[:, None] - wanted[None]).max((2, 3))
    assert distances.min(1).max() < 1e-4
    assert {*distances.argmin(1)} == {0, 1, 2, 3}
    # In evaluation all are joined.
    plain = create_model("fractalnet", **arguments)
    expected = jit(plain.apply)(variables, images)[0]
    np.testing.assert_array_equal(jit(model.apply)(variables, images)[0], expected)


def test_paths_are_dropped_between_columns_only():
    for arguments in ({"topology": "dense"}, {"aggregation": "sum"}):
        message = one_line_error(create_model, "fractalnet20", drop_path=0.15, **arguments)
        assert "drop_path needs columns" in message
    assert "drop_path must be" in one_line_error(create_model, "fractalnet20", drop_path=1)
