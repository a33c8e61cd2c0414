"""The networks that torchvision and timm publish weights of: names, shapes and outputs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.convert import from_torch, to_torch
from tests.convert import published
from tests.models import golden

PUBLISHED = published.load()
WAYS = [(name, way) for name, ways in PUBLISHED.items() for way in ways]


def ways(quick):
    """Parameters of a test, slow for all networks but the quick ones."""
    return [
        pytest.param(
            name,
            way,
            id=f"{name}-{'-'.join(way['dialects'])}",
            marks=() if name in quick else pytest.mark.slow,
        )
        for name, way in WAYS
    ]


@functools.cache
def apply(name):
    return jax.jit(create_model(name, 1000, dtype=jnp.float64).apply)


def test_every_published_network_is_there():
    networks = ["densenet121", "densenet169", "densenet201", "efficientnet_b0", "resnet50"]
    networks += ["resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"]
    both = {name: {"timm", "torchvision"} for name in networks}
    found = {name: {d for way in ws for d in way["dialects"]} for name, ws in PUBLISHED.items()}
    assert found == both | {"res2net50_26w_4s": {"timm"}}


@pytest.mark.parametrize(("name", "way"), ways(("efficientnet_b0", "resnet50")))
def test_names_and_shapes_are_those_published(name, way):
    shapes = {k: tuple(shape) for k, shape in way["shapes"].items()}
    nothing = {
        key: np.zeros((), np.int64)
        if key.endswith("tracked")
        else np.broadcast_to(np.float32(0), s)
        for key, s in shapes.items()
    }
    variables = from_torch(name, nothing)
    for dialect in way["dialects"]:
        back = to_torch(name, variables, dialect=dialect)
        assert {key: value.shape for key, value in back.items()} == shapes


@pytest.mark.parametrize(("name", "way"), ways(("resnet50",)))
def test_outputs_are_those_published(name, way):
    weights = golden.state_dict(way["shapes"])
    with jax.enable_x64(True):
        variables = from_torch(name, weights, dtype=np.float64)
        logits, _ = apply(name)(variables, jnp.asarray(published.images(), jnp.float64))
    error = np.max(np.abs(np.asarray(logits)[:, : published.LOGITS] - way["logits"]))
    assert error < 1e-6 * np.max(np.abs(way["logits"]))
    back = to_torch(name, variables, dialect=way["dialects"][0])
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.slow
def test_the_densenets_that_torchvision_offered_first():
    """Their files say "norm.1" for "norm1", and have no counters."""
    weights = golden.state_dict(PUBLISHED["densenet121"][0]["shapes"])
    first = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in weights.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in first
    now, then = from_torch("densenet121", weights), from_torch("densenet121", first)
    jax.tree.map(np.testing.assert_array_equal, now, then)
