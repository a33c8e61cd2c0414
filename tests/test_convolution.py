"""The convolution of the CPU equals XLA's own: outputs and both gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from aggnets_jax.convolution import convolve, native
from aggnets_jax.models import layers

NHWC = ("NHWC", "HWIO", "NHWC")
# Groups, channels and features of each group: one group, depthwise with and without several
# features, few wide groups, many narrow ones, and numbers with few divisors.
GROUPS = [(1, 3, 5), (4, 1, 1), (6, 1, 2), (3, 2, 1), (2, 40, 3), (40, 2, 2), (12, 3, 1), (7, 2, 3)]


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


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    grouping=st.sampled_from(GROUPS),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    size=st.tuples(st.integers(9, 12), st.integers(9, 12)),
)
def test_equals_the_native_convolution(grouping, kernel_size, strides, dilations, pads, size):
    groups, channels, features = grouping
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(random.standard_normal((2, *size, groups * channels)))
        kernel = jnp.asarray(random.standard_normal((*kernel_size, channels, groups * features)))
        arguments = (x, kernel, strides, pads, dilations, groups)
        ours = outputs_and_gradients(convolve, *arguments)
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
    layer = layers.conv(8, 1, groups=1, dtype=jnp.float32, name="conv")
    x = jnp.ones((1, 8, 8, 8))
    variables = layer.init(jax.random.key(0), x)
    apply = jax.jit(layer.apply)

    def convolutions():
        return str(jax.make_jaxpr(apply)(variables, x)).count("conv_general_dilated[")

    outside = convolutions()
    with native():
        assert convolutions() == 1  # traced again: what was traced outside is not taken for it
    assert convolutions() == outside == 0


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_no_grouped_convolution_is_left_to_the_cpu(groups):
    jaxpr = jax.make_jaxpr(
        lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1)), feature_group_count=groups)
    )(jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 32 // groups, 32)))
    convolutions = [e for e in jaxpr.eqns if e.primitive is lax.conv_general_dilated_p]
    assert all(e.params["feature_group_count"] == 1 for e in convolutions)
    assert len(convolutions) <= 8


def test_dtype_of_the_layers_is_kept():
    layer = layers.conv(4, 3, groups=2, dtype=jnp.bfloat16, name="conv")
    x = jnp.ones((1, 5, 5, 4), jnp.bfloat16)
    output, variables = layer.init_with_output(jax.random.key(0), x)
    assert output.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


def test_works_under_vmap_and_forward_mode():
    x, kernel = jnp.ones((3, 2, 6, 6, 4)), jnp.ones((3, 3, 2, 4))

    def run(x):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), feature_group_count=2)

    each = jnp.stack([run(part) for part in x])
    np.testing.assert_allclose(jax.vmap(run)(x), each, rtol=1e-6)
    _, tangent = jax.jvp(run, (x[0],), (x[0],))
    np.testing.assert_allclose(tangent, run(x[0]), rtol=1e-6)


def test_layouts_other_than_its_own_are_not_taken_for_it():
    x, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    with pytest.raises(AssertionError, match="NHWC"):
        convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW"))


def test_every_convolution_of_the_layers_is_this_one():
    layer = layers.conv(4, 3, dtype=jnp.float32, name="conv")
    assert isinstance(layer, nn.Conv)
    assert layer.conv_general_dilated is convolve
