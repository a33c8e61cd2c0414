"""Concatenation, sum and mean against NumPy."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax.connectivity.aggregation import (
    AGGREGATIONS,
    Affine,
    NormalisedSum,
    make_aggregation,
)
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError


def arrays(*channels, scale=1.0):
    random = np.random.default_rng(0)
    return [
        (scale**i * random.standard_normal((2, 3, 3, c))).astype(np.float32)
        for i, c in enumerate(channels)
    ]


def left_fold(outputs, sources):
    return functools.reduce(np.add, [outputs[source] for source in sources])


def one_line(caught):
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("sources", [(0,), (3,), (0, 1, 2, 3), (3, 2, 0), (1, 3)])
def test_concat_keeps_the_order_of_the_sources(sources):
    outputs = arrays(5, 2, 3, 4)
    aggregate = make_aggregation("concat")(outputs, sources, 1)
    expected = np.concatenate([outputs[source] for source in sources], axis=-1)
    np.testing.assert_array_equal(aggregate, expected)


@pytest.mark.parametrize("sources", [(0,), (3,), (0, 1, 2, 3), (3, 2, 0), (1, 3)])
def test_sum_is_a_left_fold_bit_for_bit(sources):
    outputs = arrays(4, 4, 4, 4, scale=1e3)
    aggregate = make_aggregation("sum")(outputs, sources, 1)
    np.testing.assert_array_equal(aggregate, left_fold(outputs, sources))


@pytest.mark.parametrize("sources", [(0,), (0, 1, 2, 3), (3, 2, 0)])
def test_mean_divides_the_sum_by_its_terms(sources):
    outputs = arrays(4, 4, 4, 4)
    aggregate = make_aggregation("mean")(outputs, sources, 1)
    expected = left_fold(outputs, sources) / np.float32(len(sources))
    np.testing.assert_array_equal(aggregate, expected)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_dtype_stays(name):
    outputs = [jnp.asarray(x, jnp.bfloat16) for x in arrays(4, 4, 4)]
    assert make_aggregation(name)(outputs, (0, 1, 2), 3).dtype == jnp.bfloat16


def run(topology, aggregation, x):
    aggregate = make_aggregation(aggregation)
    outputs, aggregates = [x], []
    for layer in range(1, topology.depth + 1):
        aggregates.append(aggregate(outputs, topology.sources_of(layer), layer))
        outputs.append(3 * jnp.sin(aggregates[-1]))
    aggregates.append(aggregate(outputs, topology.output_sources, topology.depth + 1))
    return outputs, aggregates


def primitives(topology, aggregation):
    jaxpr = jax.make_jaxpr(lambda x: run(topology, aggregation, x)[1][-1])(jnp.ones((2, 4)))
    return collections.Counter(equation.primitive.name for equation in jaxpr.eqns)


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
def test_running_sum_of_the_dense_topology_is_one_addition_per_layer(depth):
    counted = primitives(make_topology("dense", depth), "sum")
    assert counted["sin"] == depth
    assert counted["add"] == depth
    assert primitives(make_topology("dense", depth), "mean")["add"] == depth


def test_a_window_that_has_not_moved_on_is_not_added_again():
    # Layers 1..5 read all there is; 6, ..., 10 and the output read five outputs each.
    counted = primitives(make_topology("windowed", 10, window=5), "sum")
    assert counted["add"] == 4 + 6 * 4


def test_plain_sum_adds_nothing_and_plain_concat_copies_nothing():
    assert primitives(make_topology("plain", 6), "sum")["add"] == 0
    assert primitives(make_topology("plain", 6), "concat")["concatenate"] == 0


@pytest.mark.parametrize("name", ["dense", "sparse", "windowed", "harmonic", "fractal", "random"])
def test_sums_within_a_stage_are_left_folds_bit_for_bit(name):
    topology = make_topology(name, 20)
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    outputs, aggregates = run(topology, "sum", x)
    outputs = [np.asarray(output) for output in outputs]
    for sources, aggregate in zip(topology.sources, aggregates, strict=True):
        np.testing.assert_array_equal(aggregate, left_fold(outputs, sources))


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_a_new_pass_remembers_nothing_of_the_last(name):
    first, second = arrays(4, 4, 4), arrays(4, 4, 4, scale=2.0)
    sources = (0, 1, 2)
    before = np.asarray(make_aggregation(name)(first, sources, 1))
    after = np.asarray(make_aggregation(name)(second, sources, 1))
    divisor = np.float32(3 if name == "mean" else 1)
    np.testing.assert_array_equal(before, left_fold(first, sources) / divisor)
    np.testing.assert_array_equal(after, left_fold(second, sources) / divisor)


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("channels", [(4, 5), (4, 1), (4, 4, 8)])
def test_sum_of_unequal_shapes_is_refused_even_if_they_would_broadcast(name, channels):
    outputs = arrays(*channels)
    with pytest.raises(UserError) as caught:
        make_aggregation(name)(outputs, range(len(channels)), 1)
    assert f"(2, 3, 3, {channels[-1]})" in one_line(caught)


@pytest.mark.parametrize(("name", "nearest"), [("summ", "sum"), ("men", "mean"), ("cat", "concat")])
def test_unknown_aggregation_names_the_nearest(name, nearest):
    with pytest.raises(UserError) as caught:
        make_aggregation(name)
    assert f"unknown aggregation {name!r}; nearest: {nearest}" in one_line(caught)


class Centre(nn.Module):
    """A normalisation that subtracts the mean of each channel."""

    @nn.compact
    def __call__(self, x):
        return Affine(jnp.ones((), x.dtype), -jnp.mean(x, axis=(1, 2), keepdims=True))


class Stages(nn.Module):
    """A module that returns what the layers of a stage read under the normalised sum."""

    readers: tuple
    weighted: bool = True

    @nn.compact
    def __call__(self, *outputs):
        aggregate = NormalisedSum(Centre, weighted=self.weighted)
        return [aggregate(outputs, sources, layer) for layer, sources in self.readers]


READERS = ((1, (0,)), (2, (0, 1)), (3, (2, 0)))


def centred(outputs):
    return [x - x.mean(axis=(1, 2), keepdims=True) for x in outputs]


@pytest.mark.parametrize("weighted", [True, False])
def test_normalised_sum_against_numpy(weighted):
    outputs, normalised = arrays(4, 4, 4), centred(arrays(4, 4, 4))
    module, random = Stages(READERS, weighted), np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *outputs)
    variables = jax.tree.map(lambda x: random.standard_normal(x.shape).astype("f"), shapes)
    if not weighted:
        assert not variables
    for (layer, sources), read in zip(READERS, module.apply(variables, *outputs), strict=True):
        weights = np.ones((len(sources), 4))
        if weighted:
            weights = variables["params"][f"weights{layer}"]["weights"]
        expected = sum(w * normalised[s] for w, s in zip(weights, sources, strict=True))
        np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-6)


def test_normalised_sum_starts_as_the_sum_of_normalised_outputs():
    outputs = arrays(4, 4, 4)
    reads, variables = Stages(READERS).init_with_output(jax.random.key(0), *outputs)
    assert {name: part["weights"].shape for name, part in variables["params"].items()} == {
        "weights1": (1, 4),
        "weights2": (2, 4),
        "weights3": (2, 4),
    }
    np.testing.assert_allclose(reads[1], sum(centred(outputs)[:2]), rtol=1e-5, atol=1e-6)


def test_an_output_is_normalised_once_for_all_that_read_it():
    outputs = arrays(4, 4, 4)
    variables = Stages(READERS).init(jax.random.key(0), *outputs)
    jaxpr = jax.make_jaxpr(Stages(READERS).apply)(variables, *outputs)
    assert str(jaxpr).count(" neg ") == len(outputs)


def test_normalised_sum_keeps_the_dtype():
    outputs = [jnp.asarray(x, jnp.bfloat16) for x in arrays(4, 4, 4)]
    reads, _ = Stages(READERS).init_with_output(jax.random.key(0), *outputs)
    assert {read.dtype for read in reads} == {jnp.dtype(jnp.bfloat16)}
