"""And-or graphs: the notation, and what nodes read."""

import jax.numpy as jnp
import numpy as np

from aggnets_jax.connectivity.and_or import AndOr, read_graph, word_bounds

TEXT = "t1[0-1] t5[0] o3=(5) t6[1] o4=(6)+(3*) a2=(3,4x.5)+(1) o0=(1,2)"


def test_a_text_is_a_topology():
    graph = read_graph("two", TEXT)
    assert graph.topology.sources == ((0,), (0,), (2,), (0,), (4, 3), (3, 5, 1), (1, 6), (7,))
    assert (graph.words, [node.kind for node in graph.nodes]) == (2, [*"ttotoao"])


def test_words_are_equal_slices_and_the_first_a_channel_larger():
    assert word_bounds(10, 4) == [0, 3, 6, 8, 10]


def test_inputs_and_residuals():
    aggregate = AndOr(read_graph("two", TEXT), "sum")
    x = jnp.arange(5.0)[None]
    outputs = {0: x, 1: 10 + x, 2: None, 3: jnp.ones((1, 3)), 4: None, 5: 2 * jnp.ones((1, 2))}
    np.testing.assert_array_equal(aggregate(outputs, (0,), 2)[0], x[:, :3])
    np.testing.assert_array_equal(aggregate(outputs, (0,), 4)[1], x[:, 3:])
    read, residual = aggregate(outputs, (3, 5, 1), 6)
    np.testing.assert_array_equal(read, outputs[1] + jnp.asarray([1, 1, 1, 2, 2]))
    np.testing.assert_array_equal(residual, outputs[1] + jnp.asarray([1, 1, 1, 1, 1]))


def test_a_starred_lateral_is_not_in_the_residual():
    aggregate = AndOr(read_graph("two", TEXT), "sum")
    outputs = {4: jnp.ones((1, 2)), 3: 3 * jnp.ones((1, 2))}
    read, residual = aggregate(outputs, (4, 3), 5)
    assert float(read[0, 0]) == 4 and float(residual[0, 0]) == 1
    weighted, _ = aggregate(outputs, (4, 3), 5, jnp.asarray([1.0, 0.0]))
    assert float(weighted[0, 0]) == 1
