"""XLA understands the options of the package, and they have their effect."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax.runtime.compilation import compiler_options, fast_compile_options


def convolutions(options):
    """How many the compiled gradient of two layers has, each of which is computed again."""

    @jax.checkpoint
    def layer(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)
        return jnp.sin(y)

    def loss(x, kernels):
        for kernel in kernels:
            x = layer(x, kernel)
        return jnp.sum(x)

    arguments = jnp.ones((1, 4, 4, 2)), jnp.ones((2, 3, 3, 2, 2))
    gradient = jax.jit(jax.grad(loss, argnums=1), compiler_options=options)
    return gradient.lower(*arguments).compile().as_text().count(" convolution(")


NHWC = ("NHWC", "HWIO", "NHWC")


def test_recomputation_is_not_merged_with_what_was_computed_first():
    # The first layer's output, both layers again, two gradients of kernels and one of images.
    assert convolutions(compiler_options()) == 6


def test_options_are_understood():
    for options in (compiler_options(), fast_compile_options()):
        assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_other_backends_are_asked_nothing(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compiler_options() == fast_compile_options() == {}
