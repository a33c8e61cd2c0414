"""The convolution of the CPU equals XLA's own: outputs and both gradients, in float64."""

import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from aggnets_jax.layers import common, convolution
from aggnets_jax.layers.convolution import convolve, native

NHWC = ("NHWC", "HWIO", "NHWC")
# Groups, channels and features of each group: one group, narrow and wide, depthwise with one and
# with several features, few wide groups, many narrow ones, and numbers with few divisors.
GROUPS = [
    (1, 3, 5),
    (1, 17, 2),
    (4, 1, 1),
    (6, 1, 2),
    (3, 2, 1),
    (2, 40, 3),
    (40, 2, 2),
    (12, 3, 1),
    (7, 2, 3),
]


@partial(jax.jit, static_argnums=(0, 3, 4, 5, 6))
def outputs_and_gradients(function, x, kernel, strides, pads, dilations, groups):
    def run(x, kernel):
        return function(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilations,
            dimension_numbers=NHWC,
            feature_group_count=groups,
        )

    output, gradients = jax.vjp(run, x, kernel)
    return output, *gradients(jnp.cos(jnp.arange(output.size, dtype=x.dtype)).reshape(output.shape))


# A convolution of so many channels is very wide: none here, and all of them.
@pytest.mark.parametrize("very_wide", [1000, 1])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    grouping=st.sampled_from(GROUPS),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    size=st.tuples(st.integers(9, 12), st.integers(9, 12)),
)
def test_equals_the_native_convolution(
    very_wide, grouping, kernel_size, strides, dilations, pads, size
):
    groups, channels, features = grouping
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(random.standard_normal((2, *size, groups * channels)))
        kernel = jnp.asarray(random.standard_normal((*kernel_size, channels, groups * features)))
        arguments = (x, kernel, strides, pads, dilations, groups)
        widths = {"_VERY_WIDE": very_wide, "_VERY_WIDE_GRADIENT": very_wide}
        with mock.patch.multiple(convolution, **widths):
            ours = outputs_and_gradients(partial(convolve), *arguments)  # traced each time
        native = outputs_and_gradients(lax.conv_general_dilated, *arguments)
    for actual, expected in zip(ours, native, strict=True):
        assert actual.dtype == jnp.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_other_backends_take_the_native_convolution(monkeypatch, groups):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel = jnp.ones((1, 8, 8, 8)), jnp.ones((3, 3, 8 // groups, 8))
    jaxpr = jax.make_jaxpr(
        lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1)), feature_group_count=groups)
    )(x, kernel)
    (equation,) = jaxpr.eqns
    assert equation.primitive is lax.conv_general_dilated_p
    assert equation.params["feature_group_count"] == groups


def test_the_plain_form_is_native_on_every_backend():
    layer = common.conv(8, 1, groups=1, dtype=jnp.float32, name="conv")
    x = jnp.ones((1, 8, 8, 8))
    variables = layer.init(jax.random.key(0), x)
    apply = jax.jit(layer.apply)

    def convolutions():
        return str(jax.make_jaxpr(apply)(variables, x)).count("conv_general_dilated[")

    outside = convolutions()
    with native():
        assert convolutions() == 1  # traced again: what was traced outside is not taken for it
    assert convolutions() == outside == 0


def gradients(strides=(1, 1), groups=1):
    def loss(x, kernel):
        output = convolve(x, kernel, strides, ((1, 1), (1, 1)), feature_group_count=groups)
        return jnp.sum(output * output)

    return jax.grad(loss, argnums=(0, 1))


@pytest.mark.parametrize("groups", [1, 4, 32])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_the_cpu_is_given_what_it_has_fast_code_for(groups, strides):
    """Within a loop XLA has fast code for these layouts alone, and nowhere for groups."""
    x, kernel = jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 32 // groups, 32))
    program = jax.jit(gradients(strides, groups)).lower(x, kernel).as_text()
    convolutions = re.findall(r"stablehlo.convolution.*", program)
    assert len(convolutions) == {1: 3, 4: 3, 32: 0}[groups]
    for line in convolutions:
        assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert "batch_group_count = 1" in line
        assert "feature_group_count = 1" in line


def test_dtype_of_the_layers_is_kept():
    layer = common.conv(4, 3, groups=2, dtype=jnp.bfloat16, name="conv")
    x = jnp.ones((1, 5, 5, 4), jnp.bfloat16)
    output, variables = layer.init_with_output(jax.random.key(0), x)
    assert output.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("groups", [1, 2])
def test_several_seeds_at_once_are_each_of_them(groups):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((3, 2, 6, 6, 4)), jnp.float32)
    kernels = jnp.asarray(random.standard_normal((3, 3, 3, 4 // groups, 4)), jnp.float32)
    run = jax.jit(gradients(groups=groups))
    each = [run(*pair) for pair in zip(x, kernels, strict=True)]
    for together in (jax.vmap(gradients(groups=groups)), jax.jit(jax.vmap(run))):
        for actual, expected in zip(together(x, kernels), zip(*each, strict=True), strict=True):
            np.testing.assert_allclose(actual, jnp.stack(expected), rtol=1e-5, atol=1e-5)
    shared = jax.jit(jax.vmap(run, (0, None)))(x, kernels[0])
    np.testing.assert_allclose(shared[1][2], run(x[2], kernels[0])[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [pytest.param((1, 1), marks=pytest.mark.slow), (2, 1)])
@pytest.mark.parametrize("outer", [jax.jacrev, jax.jacfwd])
def test_gradients_of_gradients_are_the_native_ones(outer, strides):
    random = np.random.default_rng(0)

    @jax.jit
    def second(x, kernel):
        inner = jax.grad(
            lambda x, k: jnp.sum(jnp.sin(convolve(x, k, strides, ((1, 0), (1, 2))))), (0, 1)
        )
        return outer(lambda scale: sum(jnp.sum(g**2) for g in inner(scale * x, scale * kernel)))(
            1.0
        )

    with jax.enable_x64(True):
        x = jnp.asarray(random.standard_normal((2, 6, 7, 17)))
        kernel = jnp.asarray(random.standard_normal((3, 2, 17, 2)))
        ours = second(x, kernel)
        with native():
            expected = second(x, kernel)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("channels", "features"), [(17, 2), (6, 6)])
def test_smaller_dtypes_differ_by_rounding(dtype, channels, features):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((2, 9, 9, channels)), dtype)
    kernel = jnp.asarray(random.standard_normal((3, 3, channels, features)), dtype)
    arguments = (x, kernel, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    ours = outputs_and_gradients(convolve, *arguments)
    expected = outputs_and_gradients(lax.conv_general_dilated, *arguments)
    for actual, wanted in zip(ours, expected, strict=True):
        assert actual.dtype == wanted.dtype == dtype
        difference = jnp.max(jnp.abs(actual - wanted)) / jnp.max(jnp.abs(wanted))
        assert difference <= 4 * jnp.finfo(dtype).eps


def test_what_is_not_finite_stays_so():
    x = jnp.ones((1, 8, 8, 17)).at[0, 3, 3, 0].set(jnp.nan)
    for gradient in gradients()(x, jnp.ones((3, 3, 17, 2))):
        assert jnp.isnan(gradient).any()


def test_layouts_other_than_its_own_are_not_taken_for_it():
    x, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    with pytest.raises(AssertionError, match="NHWC"):
        convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW"))
