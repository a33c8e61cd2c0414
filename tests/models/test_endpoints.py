"""Names, shapes and dtypes of what the networks return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from tests.models.test_sparsenet import jit
from tests.models.variables import random_variables


def abstract_endpoints(model, shape, dtype=jnp.float32):
    images = jax.ShapeDtypeStruct(shape, dtype)
    (logits, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    assert logits == endpoints["logits"]
    return endpoints, variables


def test_endpoints_of_a_cifar_network():
    endpoints, _ = abstract_endpoints(create_model("sparsenet_bc40_k12", 100), (2, 32, 32, 3))
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 32, 32, 24),
        "stage1": (2, 32, 32, 36),
        "stage2": (2, 16, 16, 36),
        "stage3": (2, 8, 8, 36),
        "pre_logits_2d": (2, 8, 8, 36),
        "pre_logits": (2, 36),
        "logits": (2, 100),
    }


@pytest.mark.slow
def test_endpoints_of_imagenet_networks():
    densenet, _ = abstract_endpoints(create_model("densenet121"), (2, 224, 224, 3))
    assert {name: value.shape for name, value in densenet.items()} == {
        "stem": (2, 56, 56, 64),
        "stage1": (2, 56, 56, 256),
        "stage2": (2, 28, 28, 512),
        "stage3": (2, 14, 14, 1024),
        "stage4": (2, 7, 7, 1024),
        "pre_logits_2d": (2, 7, 7, 1024),
        "pre_logits": (2, 1024),
        "logits": (2, 1000),
    }
    sparsenet, _ = abstract_endpoints(create_model("sparsenet121_k32"), (2, 224, 224, 3))
    # The output of stage 4 reads 16, 15, 13, 9 and 1.
    assert sparsenet["stage4"].shape == (2, 7, 7, 5 * 32)
    assert sparsenet["pre_logits"].shape == (2, 9 * 5 * 32)


def test_bfloat16_computes_in_bfloat16_and_ends_in_float32():
    model = create_model("sparsenet_bc16_k4", dtype=jnp.bfloat16)
    endpoints, variables = abstract_endpoints(model, (2, 8, 8, 3))
    assert endpoints.pop("logits").dtype == jnp.float32
    assert {x.dtype for x in endpoints.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_logits_are_near_those_of_float32():
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    models = [create_model("sparsenet10_k6", dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    variables = random_variables(models[0], 8, np.float32)
    logits = [jit(model.apply)(variables, images)[0] for model in models]
    difference = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    assert 0 < difference < 0.05
