"""Wrong arguments of patterns, and the patterns of several stages."""

import ast
import inspect
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax import arguments, errors
from aggnets_jax.connectivity import patterns as registered
from aggnets_jax.connectivity import stored_patterns, topology
from aggnets_jax.connectivity.topology import Topology, make_topology, per_stage, stage_topologies
from tests.patterns import ARGUMENTS, one_line_error, patterns, properties


@given(t=patterns, data=st.data())
@properties
def test_a_layer_keeps_its_last_source(t, data):
    layer = data.draw(st.integers(1, t.depth + 1))
    all_of_it = [(layer, source) for source in t.sources_of(layer)]
    reader = f"layer {layer}" if layer <= t.depth else "the stage output"
    assert f"{reader} reads nothing" in one_line_error(t.remove, all_of_it)


@pytest.mark.parametrize("link", [(3, 0), (5, 5), (0, 0), (7, 0), (6, -1)])
def test_removing_a_link_that_is_not_there(link):
    t = make_topology("sparse", 5)
    assert f"no link {link}" in one_line_error(t.remove, [(2, 0), link])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("sparce", "sparse"), ("dence", "dense"), ("log_dens", "log_dense"), ("window", "windowed")],
)
def test_unknown_pattern_names_the_nearest(name, nearest):
    assert nearest in one_line_error(make_topology, name, 4)


def test_unknown_pattern_near_to_none_lists_all():
    message = one_line_error(make_topology, "zzz", 4)
    assert all(name in message for name in topology.PATTERNS)


@pytest.mark.parametrize(
    ("name", "argument", "nearest"),
    [
        ("sparse", "bse", "base"),
        ("windowed", "windows", "window"),
        ("random", "densty", "density"),
        ("custom", "edge", "edges"),
    ],
)
def test_unknown_argument_names_the_nearest(name, argument, nearest):
    assert repr(argument) in (message := one_line_error(make_topology, name, 4, **{argument: 3}))
    assert f"nearest: {nearest}" in message


def test_an_argument_of_another_pattern_is_unknown():
    assert "'base'" in one_line_error(make_topology, "dense", 4, base=2)


def test_custom_needs_its_edges():
    assert "'edges'" in one_line_error(make_topology, "custom", 4)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("sparse", {"base": 1}, "at least 2"),
        ("sparse", {"base": 2.5}, "must be int"),
        ("sparse", {"base": "2"}, "must be int"),
        ("sparse", {"base": True}, "must be int"),
        ("log_dense", {"base": 1.0}, "from 1.1 to"),
        ("windowed", {"window": 0}, "at least 1"),
        ("windowed", {"window": 1.5}, "must be int"),
        ("random", {"density": 1.5}, "from 0 to 1"),
        ("random", {"density": -0.1}, "from 0 to 1"),
        ("random", {"density": math.nan}, "density"),
        ("random", {"seed": -1}, "at least 0"),
        ("random", {"seed": 0.5}, "must be int"),
    ],
)
def test_value_that_a_pattern_does_not_admit(name, arguments, said):
    message = one_line_error(make_topology, name, 4, **arguments)
    assert said in message
    assert next(iter(arguments)) in message


@pytest.mark.parametrize("depth", [0, -1])
def test_a_stage_has_a_layer(depth):
    for name in ARGUMENTS:
        assert "the depth of a stage must be" in one_line_error(make_topology, name, depth)


@pytest.mark.parametrize("depth", [topology.MAX_DEPTH + 1, 10**12])
def test_a_stage_is_not_deeper_than_can_be_built(depth):
    said = f"the depth of a stage must be a whole number of at most {topology.MAX_DEPTH}, got"
    for name in ARGUMENTS:
        assert said in one_line_error(make_topology, name, depth)
    assert said in one_line_error(stage_topologies, "plain", None, (1, depth), shortcuts=True)


def test_the_deepest_stage():
    assert make_topology("sparse", topology.MAX_DEPTH).depth == topology.MAX_DEPTH


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ([(1, 0), (2,), (3, 2)], "pair"),
        ([(1, 0), (2, 1, 0), (3, 2)], "pair"),
        ([(1, 0), ("2", "1"), (3, 2)], "pair"),
        ([(1, 0), "21", (3, 2)], "pair"),
        ([(1, 0), (2, 0.5), (3, 2)], "pair"),
        ([(1, 0), 5, (3, 2)], "pair"),
        ([(1, 0), None, (3, 2)], "pair"),
        ([(1, 0), (2, 1), (4, 2)], "no layer 4"),
        ([(0, 0), (2, 1), (3, 2)], "no layer 0"),
        ([(1, 0), (2, 2), (3, 2)], "layer 2 reads 2; allowed: 0..1"),
        ([(1, 0), (2, -1), (3, 2)], "layer 2 reads -1"),
        ([(1, 0), (2, 1), (3, 3)], "the stage output reads 3"),
        ([(1, 0), (2, 1), (2, 1), (3, 2)], "layer 2 reads an output twice"),
        ([(1, 0), (3, 2)], "layer 2 reads nothing"),
        ([(1, 0), (2, 1)], "the stage output reads nothing"),
        ([], "layer 1 reads nothing"),
        (3, "edges"),
    ],
)
def test_bad_edges(edges, said):
    assert said in one_line_error(make_topology, "custom", 2, edges=edges)


def test_no_such_layer_or_path():
    t = make_topology("sparse", 5)
    for layer in (0, 7, -1):
        assert "allowed: 1..6" in one_line_error(t.sources_of, layer)
    for layer, source in [(3, 4), (7, 0), (2, -1)]:
        assert "no path" in one_line_error(t.shortest_path, layer, source)


def test_a_topology_written_by_hand_is_checked():
    assert Topology("mine", ((0,), (1, 0))).depth == 1
    assert "'mine'" in one_line_error(Topology, "mine", ((0,), (2,)))


# Stages.


def test_per_stage_repeats_one_value_or_takes_them_all():
    assert per_stage("k", 12, 3) == (12, 12, 12)
    assert per_stage("k", [12], 2) == (12, 12)
    assert per_stage("k", (1, 2, 3), 3) == (1, 2, 3)
    assert per_stage("k", "name", 2) == ("name", "name")
    for values in [(1, 2), (1, 2, 3, 4), ()]:
        message = one_line_error(per_stage, "growth_rate", values, 3)
        assert message == f"growth_rate has {len(values)} values for 3 stages"


@pytest.mark.parametrize("shortcuts", [False, True])
def test_a_network_has_a_stage(shortcuts):
    said = "at least one stage"
    assert said in one_line_error(stage_topologies, "dense", None, (), shortcuts=shortcuts)
    assert said in one_line_error(per_stage, "growth_rate", 12, 0)


def test_stage_topologies_take_names_and_arguments_for_each_stage():
    assert stage_topologies("dense", None, (2, 3)) == (
        make_topology("dense", 2),
        make_topology("dense", 3),
    )
    assert stage_topologies("sparse", {"base": 3}, (4, 9)) == (
        make_topology("sparse", 4, base=3),
        make_topology("sparse", 9, base=3),
    )
    assert stage_topologies(["plain", "windowed"], [{}, {"window": 2}], (4, 5)) == (
        make_topology("plain", 4),
        make_topology("windowed", 5, window=2),
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (("dense", "sparse"), None),
        ("sparse", [{"base": 2}, {"base": 3}]),
        ("sparse", {"bas": 2}),
        ("sparse", {"depth": 2}),
        ("sparse", {"name": "dense"}),
        ("sparse", "base"),
        ("sparze", None),
        (3, None),
    ],
)
def test_stage_topologies_refuse_what_does_not_fit(name, arguments):
    one_line_error(stage_topologies, name, arguments, (4, 4, 4))


def test_a_network_has_no_layer_that_nothing_reads():
    edges = [(1, 0), (2, 0), (3, 2)]
    assert make_topology("custom", 2, edges=edges).unread == (1,)
    assert "nothing reads layer 1 of 2" in one_line_error(
        stage_topologies, "custom", {"edges": edges}, (2,)
    )


def imports(module):
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_topologies_need_no_jax():
    ours = {
        "connectivity.topology": {"arguments", "connectivity", "errors"},
        "connectivity.patterns": {"arguments", "errors"},
        "connectivity.stored_patterns": {"connectivity", "errors"},
        "arguments": {"errors"},
        "errors": set(),
    }
    for module in (topology, registered, stored_patterns, arguments, errors):
        found = set(imports(module))
        assert not {name for name in found if name.split(".")[0] in ("jax", "jaxlib", "flax")}
        own = {name.split(".")[1] for name in found if name.startswith("aggnets_jax.")}
        assert own <= ours[module.__name__.removeprefix("aggnets_jax.")]


@pytest.fixture
def scratch(monkeypatch):
    """The patterns, to be changed by a test."""
    own = dict(registered.PATTERNS)
    for module in (topology, registered, stored_patterns):
        monkeypatch.setattr(module, "PATTERNS", own)
    return own


def last_two(depth, *, skip=2):
    return [[0], *([layer - skip, layer - 1] for layer in range(2, depth + 2))]


def test_registering_a_pattern_makes_it_available(scratch):
    assert registered.pattern(last_two) is last_two
    assert make_topology("last_two", 3).sources == ((0,), (0, 1), (1, 2), (2, 3))
    assert make_topology("last_two", 3, skip=2).num_links == 5
    assert "skip" in one_line_error(make_topology, "last_two", 3, skp=1)
    registered.pattern(last_two)  # its module may be imported again
    assert "already" in one_line_error(registered.pattern, namesake)
    assert "def" in one_line_error(registered.pattern, lambda depth: [])


def namesake(depth):
    return []


namesake.__name__ = "dense"


def test_a_topology_is_made_from_a_function_from_links_or_is_one():
    expected = Topology("last_two", ((0,), (0, 1), (1, 2), (2, 3)))
    assert make_topology(last_two, 3) == expected
    assert make_topology(expected, 3) is expected
    for links in (expected.links, [list(link) for link in expected.links]):
        assert make_topology(links, 3).sources == expected.sources
    for pattern in (last_two, expected, expected.links):
        stages = stage_topologies(pattern, None, [3, 3])
        assert [t.sources for t in stages] == [expected.sources] * 2
    shallow = [(1, 0), (2, 1)]
    stages = stage_topologies([expected.links, shallow, "dense"], None, [3, 1, 2])
    assert [t.depth for t in stages] == [3, 1, 2]
    assert stages[1].links == ((1, 0), (2, 1))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda depth: [[0]], "returns 1 lists for 3 layers; it must return 4"),
        (lambda depth: 1 / 0, "fails for 3 layers: ZeroDivisionError"),
        (lambda depth: [[0.0]] * 4, "fails for 3 layers: TypeError"),
        (lambda depth: [[3], [0], [0], [0]], "layer 1 reads 3; allowed: 0..0"),
        (make_topology("dense", 2), "topology 'dense' has 2 layers, and the stage has 3"),
        (5, "a topology is the name of a pattern, a Topology, a function, or a list of links"),
        ([(1, 0), (2,)], "an edge is a pair"),
        ([(1, 0), (9, 0)], "edge (9, 0): no layer 9; allowed: 1..4"),
    ],
)
def test_topologies_that_are_none(pattern, message):
    assert message in one_line_error(make_topology, pattern, 3)


def test_a_stored_pattern_needs_no_code(scratch):
    registered.pattern(last_two)
    with topology.recording() as made:
        stages = stage_topologies(["last_two", "last-two", "dense"], None, [3, 4, 4])
    rows = json.loads(json.dumps(stored_patterns.rows_of(made)))
    assert [row["depth"] for row in rows["last_two"]] == [3, 4] and [*rows] == ["last_two"]
    del scratch["last_two"]
    arguments = {"topology": ("last_two", "last-two", "dense"), "name": "last_two"}
    arguments = stored_patterns.with_stored(arguments, rows)
    assert arguments["name"] == "last_two"
    assert stage_topologies(arguments["topology"], None, [3, 4, 4]) == stages
    message = one_line_error(make_topology, arguments["topology"][0], 5)
    assert "'last_two' is known by its links alone, for 3, 4 layers" in message
    assert "its code is needed" in message
    registered.pattern(last_two)
    assert make_topology(arguments["topology"][0], 5) == make_topology(last_two, 5)
