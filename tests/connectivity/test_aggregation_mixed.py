"""Between concatenation and sum: overlapping neighbours (MixNet), and two paths (DPN)."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.connectivity.aggregation import DualPath, Mixed, make_aggregation
from aggnets_jax.connectivity.topology import make_topology
from tests.patterns import one_line_error


def arrays(*channels):
    random = np.random.default_rng(0)
    return [random.standard_normal((2, 3, 3, c)) for c in channels]


SOURCES = [(0,), (2,), (0, 1, 2, 3), (3, 1, 0)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("make", [Mixed, DualPath])
def test_sharing_nothing_is_a_concatenation(make, sources):
    outputs = arrays(5, 2, 3, 4)
    expected = make_aggregation("concat")(outputs, sources, 1)
    np.testing.assert_array_equal(make(0)(outputs, sources, 1), expected)


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("make", [Mixed, DualPath])
def test_sharing_everything_is_a_sum(make, sources):
    outputs = arrays(4, 4, 4, 4)
    expected = make_aggregation("sum")(outputs, sources, 1)
    np.testing.assert_array_equal(make(4)(outputs, sources, 1), expected)


@pytest.mark.parametrize("sources", [(0, 1, 2), (2, 0, 1)])
def test_mixed_adds_into_a_canvas_that_each_output_shifts_along(sources):
    outputs, overlap = arrays(6, 5, 3), 2
    canvas, end = np.zeros((2, 3, 3, 6 + 5 + 3 - 2 * overlap)), 0
    for number, source in enumerate(sources):
        start = end - overlap if number else 0
        end = start + outputs[source].shape[-1]
        canvas[..., start:end] += outputs[source]
    assert end == canvas.shape[-1]
    actual = Mixed(overlap)(outputs, sources, 3)
    np.testing.assert_allclose(actual, canvas, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("sources", [(0, 1, 2), (2, 0, 1)])
def test_dual_path_keeps_the_paths_apart(sources):
    outputs = arrays(7, 5, 4)
    actual = DualPath(3)(outputs, sources, 3)
    assert actual.shape[-1] == 3 + 4 + 2 + 1
    # In the order of the sources, bit for bit.
    added = sum(outputs[source][..., :3] for source in sources)
    np.testing.assert_array_equal(actual[..., :3], added)
    end = 3
    for source in sources:
        rest = outputs[source][..., 3:]
        np.testing.assert_array_equal(actual[..., end : end + rest.shape[-1]], rest)
        end += rest.shape[-1]


def primitives(make, depth):
    def run(x):
        aggregate = make_aggregation(make)
        outputs, topology = [x], make_topology("dense", depth)
        for layer in range(1, depth + 1):
            read = aggregate(outputs, topology.sources_of(layer), layer)
            outputs.append(jnp.sin(read[..., -4:]))
        return aggregate(outputs, topology.output_sources, depth + 1)

    jaxpr = jax.make_jaxpr(run)(jnp.ones((2, 4)))
    return collections.Counter(equation.primitive.name for equation in jaxpr.eqns)


@pytest.mark.parametrize("depth", [1, 6, 20])
def test_what_begins_alike_is_joined_once(depth):
    mixed = primitives(lambda: Mixed(2), depth)
    assert mixed["sin"] == mixed["add"] == mixed["concatenate"] == depth
    assert primitives(lambda: DualPath(2), depth)["add"] == depth


@pytest.mark.parametrize("make", [lambda: Mixed(1), lambda: DualPath(1)])
def test_a_new_pass_remembers_nothing_of_the_last(make):
    first, second = arrays(2, 2, 2), [-y for y in arrays(2, 2, 2)]
    before = make_aggregation(make)(first, (0, 1, 2), 3)
    after = make_aggregation(make)(second, (0, 1, 2), 3)
    np.testing.assert_array_equal(after, -before)


@pytest.mark.parametrize("channels", [(3, 8), (8, 3)])
def test_an_overlap_wider_than_an_output_is_refused(channels):
    message = one_line_error(Mixed(4), arrays(*channels), (0, 1), 1)
    assert f"{channels[0]} and {channels[1]} channels can't overlap by 4" in message


def test_paths_narrower_than_the_residual_one_are_refused_if_they_differ():
    message = one_line_error(DualPath(4), arrays(3, 6), (0, 1), 1)
    assert "(2, 3, 3, 3)" in message


@pytest.mark.parametrize("overlap", [0, 2, 3])
def test_masks_weigh_addends_at_once_and_what_stands_alone_behind_the_activation(overlap):
    """Channels of one output alone are weighed late, channels that are added before."""
    random = np.random.default_rng(overlap)
    outputs = [random.normal(size=(2, width)) for width in (5, 4, 3)]
    weights = np.array([0.3, 0.0, 0.7])
    owners = [[0]] * 5
    for source, width in ((1, 4), (2, 3)):
        kept = len(owners) - overlap
        owners = (
            owners[:kept] + [[*o, source] for o in owners[kept:]] + [[source]] * (width - overlap)
        )
    begins = np.cumsum([0, 5 - overlap, 4 - overlap])
    features, mask = np.zeros((2, len(owners))), np.ones(len(owners))
    for source, output in enumerate(outputs):
        for channel in range(output.shape[1]):
            place = begins[source] + channel
            late = len(owners[place]) == 1
            features[:, place] += output[:, channel] * (1 if late else weights[source])
            if late:
                mask[place] = weights[source]
    masked = Mixed(overlap)([jnp.asarray(o) for o in outputs], (0, 1, 2), 3, jnp.asarray(weights))
    np.testing.assert_allclose(masked.features, features, rtol=1e-5)
    np.testing.assert_allclose(masked.mask, mask, rtol=1e-6)


def test_masks_of_dual_paths_weigh_sums_at_once_and_the_rest_late():
    outputs = [jnp.arange(1.0, 5.0), jnp.arange(2.0, 5.0)]
    masked = DualPath(2)(outputs, (0, 1), 2, jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(masked.features, [0.5 + 4, 1 + 6, 3, 4, 4])
    np.testing.assert_allclose(masked.mask, [1, 1, 0.5, 0.5, 2])
