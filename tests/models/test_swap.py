"""Any family with any topology and aggregation: it trains, or one line says why it can't."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggnets_jax import create_model, list_families
from aggnets_jax.connectivity.aggregation import AGGREGATIONS
from aggnets_jax.errors import UserError
from aggnets_jax.models.registry import find_family
from tests.models.tiny import TINY
from tests.models.variables import random_variables, starting_from_zeros

TOPOLOGIES = {
    "plain": {},
    "dense": {},
    "sparse": {},
    "log_dense": {"base": 1.5},
    "windowed": {"window": 2},
    "fractal": {},
    "harmonic": {},
    "random": {"density": 0.6, "seed": 3},
}
# Networks of one size only, and cells, take long to trace.
LARGE = {
    "amoebanet_a_cifar",
    "amoebanet_b_cifar",
    "aognet",
    "efficientnet_b0",
    "enasnet_cifar",
    "enasnet_cifar_nao",
    "fpnasnet",
    "googlenet_cifar",
    "micro_dense_efficientnet_b0",
    "mobilenet_v2_cifar",
    "nasnet_a_cifar",
    "nasnet_a_imagenet",
    "pnasnet_cifar",
    "pnasnet_cifar_nao",
    "pyramidnet_imagenet",
    "shufflenet_v2_cifar",
}


def small(families):
    return [pytest.param(f, marks=pytest.mark.slow if f in LARGE else ()) for f in families]


def one_step(model, size):
    """The loss before and after steps of gradient descent, and the gradients, on eight images."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.standard_normal((8, size, size, 3)), jnp.float32)
    labels = jnp.arange(8) % 2
    variables = random_variables(model, size, np.float32)

    def loss_fn(params):
        (logits, endpoints), _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        assert logits.shape == (8, model.num_classes)
        assert endpoints["logits"] is logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # Small programs: compiling them takes all the time.
    step = jax.jit(
        jax.value_and_grad(loss_fn), compiler_options={"xla_backend_optimization_level": 0}
    )
    loss, gradients = step(variables["params"])

    def loss_after(length):
        rate = length / optax.tree.norm(gradients)
        return step(jax.tree.map(lambda p, g: p - rate * g, variables["params"], gradients))[0]

    # Batch normalisation of a few small images is steep, other losses hardly change by rounding.
    return loss, [loss_after(length) for length in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)], gradients


def check_one_step(model, size):
    before, after, gradients = one_step(model, size)
    assert np.all(np.isfinite([before, *after]))
    assert min(after) < before
    norms = jax.tree.map(optax.tree.norm, gradients)
    assert all(np.isfinite(norm) for norm in jax.tree.leaves(norms))


def swapped(family, topology, aggregation, **changes):
    arguments, size = TINY[family]
    model = create_model(
        family,
        2,
        **{**arguments, **changes},
        topology=topology,
        topology_args=TOPOLOGIES[topology],
        aggregation=aggregation,
    )
    return model, size


def test_there_is_a_tiny_network_of_every_family():
    assert sorted(TINY) == list_families()


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_takes_a_topology_and_an_aggregation(family):
    parameters = inspect.signature(find_family(family).build).parameters
    assert {"topology", "topology_args", "aggregation", "dtype"} <= set(parameters)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", small(sorted(TINY)))
def test_endpoints_and_dtypes_of_every_family(family, dtype):
    arguments, size = TINY[family]
    model = create_model(family, 7, **arguments, dtype=jnp.dtype(dtype))
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    with starting_from_zeros():
        (logits, endpoints), variables = jax.eval_shape(
            model.init_with_output, jax.random.key(0), images
        )
    stages = sum(name.startswith("stage") for name in endpoints)
    names = [f"stage{i}" for i in range(1, stages + 1)]
    assert {*endpoints} == {"stem", *names, "pre_logits_2d", "pre_logits", "logits"}
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert endpoints["pre_logits_2d"].ndim == 4 and endpoints["pre_logits"].ndim == 2
    assert endpoints["stage1"].dtype == endpoints["pre_logits_2d"].dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert set(variables) <= {"params", "batch_stats"}
    assert len(model.topologies) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_trains(family):
    arguments, size = TINY[family]
    check_one_step(create_model(family, 2, **arguments), size)


# What the papers' parts are meant for, each in another's place.
@pytest.mark.parametrize(
    ("family", "topology", "aggregation"),
    [
        ("sparsenet", "windowed", "concat"),
        pytest.param("sparsenet_bc", "dense", "mean", marks=pytest.mark.slow),
        pytest.param("hcgnet", "sparse", "concat", marks=pytest.mark.slow),
        pytest.param("dsnet_cifar", "sparse", "normalised_sum", marks=pytest.mark.slow),
        pytest.param("seqresnet", "log_dense", "concat", marks=pytest.mark.slow),
        pytest.param("mdnet", "sparse", "concat", marks=pytest.mark.slow),
        pytest.param("sparsenet_sum", "windowed", "concat", marks=pytest.mark.slow),
    ],
)
def test_parts_in_the_place_of_others(family, topology, aggregation):
    # One stage in which patterns differ, and another behind it.
    few = {"stage_depths": (3, 1)} if family in ("sparsenet", "sparsenet_bc") else {}
    check_one_step(*swapped(family, topology, aggregation, **few))


combinations = given(
    family=st.sampled_from(sorted(set(TINY) - LARGE)),
    topology=st.sampled_from(sorted(TOPOLOGIES)),
    aggregation=st.sampled_from([*AGGREGATIONS, "normalised_sum"]),
)


def trains_or_says_why(family, topology, aggregation):
    try:
        model, size = swapped(family, topology, aggregation)
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        with starting_from_zeros():
            jax.eval_shape(model.init, jax.random.key(0), images)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return False
    return model, size


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@combinations
def test_any_combination_builds_or_says_why(family, topology, aggregation):
    trains_or_says_why(family, topology, aggregation)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@combinations
def test_any_combination_that_builds_trains(family, topology, aggregation):
    if built := trains_or_says_why(family, topology, aggregation):
        check_one_step(*built)
