"""Patterns against the sets, formulas and constructions of the papers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.connectivity import topology
from aggnets_jax.connectivity.topology import make_topology
from tests.patterns import ARGUMENTS, DEPTHS, patterns, properties


def floor_log(base, number):
    power = 0
    while base ** (power + 1) <= number:
        power += 1
    return power


def digit_sum(number, base):
    total = 0
    while number:
        number, digit = divmod(number, base)
        total += digit
    return total


def test_every_pattern_is_tested():
    assert {*ARGUMENTS, "custom"} == set(topology.PATTERNS)


# SparseNet, eqs. 2-4 and Table 1.


@pytest.mark.parametrize(
    ("depth", "output"),
    [
        (6, (6, 5, 3)),
        (12, (12, 11, 9, 5)),
        (16, (16, 15, 13, 9, 1)),
        (24, (24, 23, 21, 17, 9)),
        (32, (32, 31, 29, 25, 17, 1)),
        (48, (48, 47, 45, 41, 33, 17)),
        (66, (66, 65, 63, 59, 51, 35, 3)),
        (166, (166, 165, 163, 159, 151, 135, 103, 39)),
    ],
)
def test_sparse_stage_output_is_the_rule_for_the_next_layer(depth, output):
    assert make_topology("sparse", depth).output_sources == output
    assert make_topology("sparse", depth).sources_of(depth + 1) == output
    assert make_topology("sparse", depth + 1).sources_of(depth + 1) == output


@pytest.mark.parametrize("base", [2, 3, 4, 5, 10])
def test_sparse_reads_powers_of_the_base_newest_first(base):
    for layer, sources in enumerate(make_topology("sparse", 200, base=base).sources, start=1):
        expected = [layer - base**i for i in range(floor_log(base, layer) + 1)]
        assert list(sources) == expected


@pytest.mark.parametrize("layer", [1, 2, 4, 8, 16, 32])
def test_sparse_stage_input_is_read_at_powers_of_two_only(layer):
    readers = {reader for reader, source in make_topology("sparse", 40).links if source == 0}
    assert layer in readers
    assert readers == {1, 2, 4, 8, 16, 32}


@pytest.mark.parametrize("base", [2, 3, 4, 7, 16])
def test_sparse_links_are_eq_4_with_one_more_per_layer(base):
    expected = 0
    for depth in range(1, 301):
        expected += floor_log(base, depth) + 1
        assert make_topology("sparse", depth, base=base).num_links == expected


def test_dense_and_plain_link_counts():
    for depth in range(1, 120):
        assert make_topology("dense", depth).num_links == depth * (depth + 1) // 2
        assert make_topology("plain", depth).num_links == depth


@pytest.mark.parametrize("base", [2, 3, 5])
def test_sparse_links_grow_as_n_log_n(base):
    for depth in (base**4, base**5 - 1, 500, 1000):
        links = make_topology("sparse", depth, base=base).num_links
        assert depth * (math.log(depth, base) - 1) < links <= depth * (math.log(depth, base) + 1)
        assert links < make_topology("dense", depth).num_links


def test_plain_gradient_path_is_the_offset():
    lengths = make_topology("plain", 30).shortest_paths()
    for layer, source in itertools.product(range(32), repeat=2):
        assert lengths[layer, source] == (layer - source if source <= layer else math.inf)


def test_dense_gradient_path_is_one_link():
    t = make_topology("dense", 30)
    for source, layer in itertools.combinations(range(32), 2):
        assert t.shortest_path(layer, source) == 1


@pytest.mark.parametrize("base", [2, 3, 4, 7])
def test_sparse_gradient_path_is_the_digit_sum_of_the_offset(base):
    lengths = make_topology("sparse", 150, base=base).shortest_paths()
    for source, layer in itertools.combinations(range(152), 2):
        offset = layer - source
        assert lengths[layer, source] == digit_sum(offset, base)
        assert lengths[layer, source] <= (base - 1) * (floor_log(base, offset) + 1)


@given(depth=DEPTHS, base=st.integers(2, 9), data=st.data())
@properties
def test_sparse_gradient_path_property(depth, base, data):
    layer = data.draw(st.integers(1, depth + 1))
    source = data.draw(st.integers(0, layer - 1))
    t = make_topology("sparse", depth, base=base)
    assert t.shortest_path(layer, source) == digit_sum(layer - source, base)


def test_aggregated_features_of_table_1():
    assert make_topology("plain", 40).aggregated_features() == (1,) * 41
    assert make_topology("dense", 40).aggregated_features() == tuple(range(1, 42))
    for base in (2, 3, 5):
        features = make_topology("sparse", 40, base=base).aggregated_features()
        assert features == tuple(floor_log(base, layer) + 1 for layer in range(1, 42))


def test_aggregated_features_count_channels():
    assert make_topology("dense", 4).aggregated_features(12, 24) == (24, 36, 48, 60, 72)
    assert make_topology("sparse", 6).aggregated_features(12, 24) == (24, 36, 24, 48, 36, 36, 36)
    assert make_topology("sparse", 6).aggregated_features(12) == (12, 24, 24, 36, 36, 36, 36)


# The other patterns against their papers.


def fractal_network(columns, reads, sources):
    """f_1(z) = conv(z), f_{C+1}(z) = join(f_C(f_C(z)), conv(z)); appends what each layer reads."""
    deep = set()
    if columns > 1:
        deep = fractal_network(columns - 1, fractal_network(columns - 1, reads, sources), sources)
    sources.append(reads)
    return deep | {len(sources)}


@pytest.mark.parametrize("columns", range(1, 8))
def test_fractal_is_the_recursive_fractalnet(columns):
    sources = []
    output = fractal_network(columns, {0}, sources)
    t = make_topology("fractal", 2**columns - 1)
    assert [set(s) for s in t.sources] == [*sources, output]
    assert all(list(s) == sorted(s) for s in t.sources)


@pytest.mark.parametrize("depth", range(1, 60))
def test_fractal_of_another_depth_chains_the_largest(depth):
    sources, join = [], {0}
    while len(sources) < depth:
        columns = max(c for c in range(1, 9) if len(sources) + 2**c - 1 <= depth)
        join = fractal_network(columns, join, sources)
    assert [set(s) for s in make_topology("fractal", depth).sources] == [*sources, join]


def test_fractal_links_grow_linearly():
    # At each of 2^(C-1) joins as many columns start as end; the mean of their squares is below 6.
    for columns in range(2, 10):
        t = make_topology("fractal", 2**columns - 1)
        assert t.depth < len(t.links) < 3 * (t.depth + 1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8, 9, 16, 37, 60])
def test_harmonic_is_the_rule_of_hardnet(depth):
    t = make_topology("harmonic", depth)
    for layer in range(1, depth + 1):
        reads = {layer - 2**i for i in range(7) if 2**i <= layer and layer % 2**i == 0}
        assert set(t.sources_of(layer)) == reads
    assert set(t.output_sources) == {*range(1, depth + 1, 2), depth}


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 20, 60])
def test_one_pattern_expressed_two_ways(depth):
    def sources(name, **arguments):
        return make_topology(name, depth, **arguments).sources

    assert sources("log_dense", base=2) == sources("sparse", base=2)
    assert sources("log_dense", base=3.0) == sources("sparse", base=3)
    assert sources("windowed", window=depth + 1) == sources("dense")
    assert sources("random", density=1) == sources("dense")
    assert sources("random", density=0.0, seed=5) == sources("plain")
    assert sources("windowed", window=1) == sources("plain")
    assert sources("sparse", base=depth + 2) == sources("plain")


@given(t=patterns)
@properties
def test_custom_edges_express_every_pattern(t):
    assert make_topology("custom", t.depth, edges=t.links).sources == t.sources
    as_in_a_config_file = [list(link) for link in t.links]
    assert make_topology("custom", t.depth, edges=as_in_a_config_file).sources == t.sources
    as_array = np.argwhere(t.adjacency()) + np.array([1, 0])
    rebuilt = make_topology("custom", t.depth, edges=as_array)
    assert [sorted(s) for s in rebuilt.sources] == [sorted(s) for s in t.sources]


def test_log_dense_below_base_2_fills_in_offsets():
    t = make_topology("log_dense", 20, base=1.5)
    assert [21 - s for s in t.output_sources] == [1, 2, 3, 5, 8, 11, 17]
    assert t.num_links > make_topology("sparse", 20).num_links


def test_a_hyphen_in_a_name_is_an_underscore():
    assert make_topology("log-dense", 9) == make_topology("log_dense", 9)


@given(depth=DEPTHS, density=st.floats(0, 1), seed=st.integers(0, 2**40))
@properties
def test_random_depends_on_its_seed_only(depth, density, seed):
    t = make_topology("random", depth, density=density, seed=seed)
    assert t == make_topology("random", depth, density=density, seed=seed)
    for layer, sources in enumerate(t.sources, start=1):
        assert sources[-1] == layer - 1
        assert list(sources) == sorted(sources)


@given(
    name=st.sampled_from(["plain", "dense", "sparse", "log_dense", "windowed", "random"]),
    depth=DEPTHS,
    more=st.integers(0, 30),
    data=st.data(),
)
@properties
def test_a_deeper_stage_begins_like_a_shallower_one(name, depth, more, data):
    arguments = data.draw(ARGUMENTS[name])
    shallow = make_topology(name, depth, **arguments)
    deep = make_topology(name, depth + more, **arguments)
    assert deep.sources[: depth + 1] == shallow.sources


def test_random_differs_between_seeds():
    drawn = {make_topology("random", 30, density=0.3, seed=seed) for seed in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_random_link_count_is_binomial(density):
    depth, seeds = 60, 20
    trials = seeds * depth * (depth + 1) // 2
    extra = sum(
        len(make_topology("random", depth, density=density, seed=seed).links) - (depth + 1)
        for seed in range(seeds)
    )
    deviation = abs(extra - trials * density) / math.sqrt(trials * density * (1 - density))
    assert deviation < 5


# Properties of all patterns.


@given(t=patterns)
@properties
def test_layers_read_distinct_earlier_outputs(t):
    assert len(t.sources) == t.depth + 1
    for layer, sources in enumerate(t.sources, start=1):
        assert t.sources_of(layer) == sources
        assert sources
        assert len(set(sources)) == len(sources)
        assert all(type(source) is int and 0 <= source < layer for source in sources)


@given(t=patterns)
@properties
def test_adjacency_links_and_counts_agree(t):
    matrix = t.adjacency()
    assert matrix.shape == (t.depth + 1, t.depth + 1)
    assert matrix.dtype == bool
    assert {(n + 1, s) for n, s in np.argwhere(matrix).tolist()} == set(t.links)
    assert len(set(t.links)) == len(t.links) == t.num_links + len(t.output_sources)
    assert t.num_links == matrix[:-1].sum()


def breadth_first_lengths(t, start):
    lengths, frontier, steps = {start: 0}, {start}, 0
    while frontier:
        steps += 1
        read = {s for node in frontier if node > 0 for s in t.sources[node - 1]}
        frontier = read - set(lengths)
        lengths.update(dict.fromkeys(frontier, steps))
    return lengths


@given(t=patterns)
@properties
def test_shortest_paths_agree_with_breadth_first_search(t):
    lengths = t.shortest_paths()
    assert lengths.shape == (t.depth + 2, t.depth + 2)
    for layer in range(t.depth + 2):
        expected = breadth_first_lengths(t, layer)
        assert lengths[layer].tolist() == [
            expected.get(source, math.inf) for source in range(t.depth + 2)
        ]


@given(t=patterns, data=st.data())
@properties
def test_remove_takes_exactly_these_links(t, data):
    removed = set()
    for layer, sources in enumerate(t.sources, start=1):
        kept = data.draw(st.integers(1, len(sources)))
        gone = data.draw(st.permutations(sources))[kept:]
        removed |= {(layer, source) for source in gone}
    ablated = t.remove(removed)
    assert ablated.depth == t.depth
    assert ablated.links == tuple(link for link in t.links if link not in removed)
    assert t.num_links - ablated.num_links == sum(layer <= t.depth for layer, _ in removed)
    back = make_topology("custom", t.depth, edges=[*ablated.links, *sorted(removed)])
    assert set(back.links) == set(t.links)
    in_order = sorted([*ablated.links, *removed], key=t.links.index)
    assert make_topology("custom", t.depth, edges=in_order).sources == t.sources


def test_removing_nothing_or_a_link_twice():
    t = make_topology("sparse", 9)
    assert t.remove([]) == t
    assert t.remove([(2, 0), [2, 0]]) == t.remove([(2, 0)])
    assert t.sources_of(2) == (1, 0)
