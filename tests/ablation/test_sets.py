"""Which links are cut together."""

import itertools

import pytest

from aggnets_jax import create_model
from aggnets_jax.ablation import sets
from aggnets_jax.connectivity.links import all_links, find_links
from aggnets_jax.errors import UserError


@pytest.fixture(scope="module")
def stages():
    return find_links(create_model("sparsenet_bc", 3, depth=34, growth_rate=4), (8, 8, 3))


def test_every_link_is_cut_once_by_each_way_to_group_them(stages):
    links = all_links(stages)
    distances = [s for s in sets.by_distance(stages) if s.key["stage"] != sets.EVERYWHERE]
    for grouped in (
        sets.single_links(stages),
        sets.by_source(stages),
        sets.by_layer(stages),
        distances,
    ):
        assert sorted(link for s in grouped for link in s.links) == sorted(links)
        assert len({tuple(s.key.items()) for s in grouped}) == len(grouped)
        assert all(s.key.get("links", 1) == len(s.links) for s in grouped)
        names = [s.key["stage"] for s in grouped]
        assert list(dict.fromkeys(names)) == list(stages)


def test_groups_are_what_their_keys_say(stages):
    for cut in sets.by_source(stages):
        assert {(n, s) for n, (_, s) in cut.links} == {(cut.key["stage"], cut.key["source"])}
    for cut in sets.by_layer(stages):
        assert {(n, x) for n, (x, _) in cut.links} == {(cut.key["stage"], cut.key["layer"])}
    for cut in sets.by_distance(stages):
        assert {x - s for _, (x, s) in cut.links} == {cut.key["distance"]}
    # In each of the stages, which are alike, as many.
    everywhere = [s for s in sets.by_distance(stages) if s.key["stage"] == sets.EVERYWHERE]
    assert [s.key["distance"] for s in everywhere] == [1, 2, 4]
    of_one = [s for s in sets.by_distance(stages) if s.key["stage"] == "stage2"]
    assert [len(s.links) for s in everywhere] == [3 * len(s.links) for s in of_one]


def test_random_sets_grow_and_do_not_depend_on_the_number_of_draws(stages):
    links = all_links(stages)
    drawn = sets.random_sets(stages, draws=3, seed=1)
    by_draw = {
        d: [s for s in drawn if s.key["draw"] == d and len(s.links) < len(links)] for d in range(3)
    }
    for of_draw in by_draw.values():
        sizes = [len(s.links) for s in of_draw]
        assert sizes == [2**i for i in range(len(sizes))] and 2 * sizes[-1] >= len(links)
        for smaller, larger in itertools.pairwise(of_draw):
            assert set(smaller.links) < set(larger.links) <= set(links)
    assert drawn[-1].links == tuple(links)
    assert [s for s in sets.random_sets(stages, draws=9, seed=1) if s in drawn] == drawn
    assert not [s for s in sets.random_sets(stages, draws=3, seed=2)[:-1] if s in drawn]
    assert len({s.links for s in drawn if s.key["links"] == 4}) == 3
    for cut in drawn:
        assert sets.listed_sets([cut.key["cut"]], stages)[0].links == cut.links


def test_a_network_of_one_link_has_random_sets():
    model = create_model("sparsenet_bc", 3, stage_depths=(1,), growth_rate=4, topology="plain")
    stages = find_links(model, (8, 8, 3))
    assert [s.key["links"] for s in sets.random_sets(stages, draws=2)] == [1, 1, 2]


def test_lists_are_files_and_texts(stages, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "source,set,stage,layer\n0,a,stage1,2\n\n1,b,stage2,2\n0,a,stage3,1\n0,a,stage1,2\n"
    )
    listed = sets.listed_sets([str(file), "stage1:3-2, stage1:3-1"], stages)
    assert [dict(s.key) for s in listed] == [
        {"set": "a", "links": 2},
        {"set": "b", "links": 1},
        {"set": "stage1:3-2, stage1:3-1", "links": 2},
    ]
    assert listed[0].links == (("stage1", (2, 0)), ("stage3", (1, 0)))
    assert listed[2].links == (("stage1", (3, 2)), ("stage1", (3, 1)))


@pytest.mark.parametrize(
    "lines",
    [
        "stage,layer,source,accuracy,delta,ci_low,ci_high,loss\r\nstage2,2,1,1,0,0,0,0.1\r\n",
        "stage,layer,source,bbox_AP,delta,bbox_AP50,segm_AP,segm_delta,segm_AP50\r\n"
        "stage2,2,1,1,0,0,0,0,0\r\n",
    ],
)
def test_lines_of_a_table_of_links_are_a_list(stages, tmp_path, lines):
    file = tmp_path / "links.csv"
    file.write_text(f"\ufeff{lines}")
    (only,) = sets.listed_sets([str(file)], stages)
    assert only == ({"set": "links", "links": 1}, (("stage2", (2, 1)),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("", "must have each of the columns stage, layer, source once"),
        ("stage,layer\nstage1,1\n", "must have each of the columns"),
        ("stage,layer,source,layer\n", "must have each of the columns"),
        ("stage,layer,source,sett\n", "unknown column of .* 'sett'; nearest: set"),
        ("stage,layer,source\n", "names no links"),
        ("stage,layer,source\nstage1,1\n", "line 2: 2 values for 3 columns"),
        ("stage,layer,source\nstage1,1,x\n", "line 2: source must be a whole number, got 'x'"),
        ("stage,layer,source\nstage1,1,-1\n", "line 2: source must be a whole number"),
        ("stage,layer,source\nstage1,9,0\n", "stage1 has no layer 9 with links; allowed: 1..6"),
        ("stage,layer,source\nstage4,1,0\n", "unknown stage 'stage4'; nearest"),
        ('set,stage,layer,source\n"a\nb",stage1,1,0\n', "must be one line of text"),
    ],
)
def test_a_file_that_lists_no_links_of_the_network(stages, tmp_path, content, message):
    file = tmp_path / "cut.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        sets.listed_sets([str(file)], stages)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["stage1"], "'stage1' is no link: give STAGE:LAYER-SOURCE"),
        (["stage1:1"], "is no link"),
        (["stage1:2--1"], "is no link"),
        ([","], "names no links"),
        (["stag1:1-0"], "unknown stage 'stag1'; nearest: stage1"),
        (["stage1:3-0"], "stage1: layer 3 does not read 0; allowed: 2, 1"),
        (["stage1:1-0", "stage1:1-0"], "is listed twice"),
    ],
)
def test_a_text_that_names_no_links_of_the_network(stages, texts, message):
    with pytest.raises(UserError, match=message):
        sets.listed_sets(texts, stages)


@pytest.mark.parametrize("arguments", [{"draws": 0}, {"seed": -1}])
def test_draws_are_positive(stages, arguments):
    with pytest.raises(UserError, match="must be at least"):
        sets.random_sets(stages, **arguments)
