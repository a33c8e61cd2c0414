import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.detection.heads import BoxHead, FeaturePyramid, MaskHead, RPNHead, Upsample


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_each_cell_of_the_transposed_convolution_becomes_four():
    x = random(1, 3, 4, 5)
    y, variables = Upsample(2).init_with_output(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert y.shape == (1, 6, 8, 2)
    for a in range(2):
        for b in range(2):
            wanted = jnp.einsum("nhwc,cd->nhwd", x, kernel[a, b])
            np.testing.assert_allclose(y[:, a::2, b::2], wanted, rtol=1e-4, atol=1e-5)
    # Kaiming, by the fan-out that PyTorch computes: output channels of the kernel's first axis.
    large = Upsample(64).init(jax.random.key(0), random(1, 1, 1, 128))["params"]["kernel"]
    np.testing.assert_allclose(large.std(), np.sqrt(2 / (4 * 128)), rtol=0.05)


def test_the_pyramid_adds_the_upsampled_level_above():
    levels = [random(1, 8, 12, 3), random(1, 4, 6, 5)]
    pyramid = FeaturePyramid(4)
    maps, variables = pyramid.init_with_output(jax.random.key(0), levels)
    assert [m.shape for m in maps] == [(1, 8, 12, 4), (1, 4, 6, 4), (1, 2, 3, 4)]
    np.testing.assert_array_equal(maps[2], maps[1][:, ::2, ::2])
    # A change of one cell above reaches its four cells below, and their neighbours.
    changed = [levels[0], levels[1].at[0, 1, 2].add(1.0)]
    difference = jnp.abs(pyramid.apply(variables, changed)[0] - maps[0]).sum(axis=-1)[0]
    rows, columns = np.nonzero(difference > 1e-6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 3, 6)


def test_odd_levels_fit_their_neighbours():
    maps = FeaturePyramid(4).init_with_output(
        jax.random.key(0), [random(1, 7, 9, 3), random(1, 4, 5, 3)]
    )[0]
    assert [m.shape[1:3] for m in maps] == [(7, 9), (4, 5), (2, 3)]


def test_the_rpn_s_outputs_are_in_the_order_of_the_anchors():
    x = random(2, 4, 5, 6)
    head = RPNHead(3, 6)
    (logits, deltas), variables = head.init_with_output(jax.random.key(0), [x, x[:, ::2, ::2]])
    assert [v.shape for v in logits] == [(2, 60), (2, 18)]
    assert [v.shape for v in deltas] == [(2, 60, 4), (2, 18, 4)]
    params = variables["params"]
    params["logits"]["bias"] = jnp.arange(3.0)
    params["deltas"]["bias"] = jnp.arange(12.0)
    (now, moved), _ = head.apply(variables, [x]), None
    np.testing.assert_allclose((now[0] - logits[0]).reshape(2, 20, 3)[0, 7], [0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(
        (moved[0] - deltas[0]).reshape(2, 20, 12)[1, 3], np.arange(12), atol=1e-5
    )


@pytest.mark.slow
def test_heads_have_outputs_for_each_class():
    logits, deltas = BoxHead(4, 3, 8).init_with_output(jax.random.key(0), random(5, 7, 7, 2))[0]
    assert (logits.shape, deltas.shape) == ((5, 4), (5, 3, 4))
    masks = MaskHead(3, 8).init_with_output(jax.random.key(0), random(5, 14, 14, 2))[0]
    assert masks.shape == (5, 3, 28, 28)
