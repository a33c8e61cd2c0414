"""Maps of cut links: what is where, in which colour, and how it is called and written."""

import pytest

from aggnets_jax import make_topology
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.reports.page.ablation_map import AblationMap, Cell, Cut, LinkNames
from aggnets_jax.reports.page.formats import loss_text, points


@pytest.mark.parametrize("name", ["dense", "sparse", "harmonic", "random"])
@pytest.mark.parametrize("depth", [1, 6, 19])
def test_a_map_has_each_link_in_its_row_and_column_and_nothing_else(name, depth):
    topology = make_topology(name, depth)
    cuts = [Cut("stage1", *link, 0.5, -0.1, -0.2, 0.1, None, None) for link in topology.links]
    (stage,) = AblationMap(cuts, LinkNames({})).stages
    found = []
    for source, cells in stage.rows:
        columns = []
        for cell in cells:
            columns += [cell] if isinstance(cell, Cell) else [None] * cell
        assert len(columns) == len(stage.layers)
        for layer, cell in zip(stage.layers, columns, strict=True):
            if cell is not None:
                assert (cell.cut.layer, cell.cut.source) == (layer, source)
                found.append((layer, source))
    assert sorted(found) == sorted(topology.links)


def test_colours_grow_with_the_change_and_no_change_is_white():
    deltas = (-0.8, -0.2, -0.05, 0.0, 0.05, 0.2)
    cuts = [Cut("s", n + 1, 0, 0.5, d, d, d, 1.0, 0.0) for n, d in enumerate(deltas)]
    shown = AblationMap(cuts, LinkNames({}))
    ((_, cells),) = shown.stages[0].rows
    light = [sum(bytes.fromhex(cell.colour[1:])) for cell in cells]
    assert light[3] == 3 * 255
    assert light[0] < light[1] < light[2] < light[3] > light[4] > light[5]
    assert [cut.delta for cut in shown.worst] == sorted(deltas)
    legend = {delta: colour for colour, delta in shown.legend()}
    assert legend[-0.8] == cells[0].colour and legend[0.0] == "#ffffff"
    assert legend[0.2] == cells[5].colour
    # Without any change there is one colour.
    still = AblationMap([cuts[3]], LinkNames({}))
    assert still.legend() == [("#ffffff", 0.0)]


def test_ends_of_links_have_names():
    links = {"stage1": StageLinks(make_topology("dense", 3), ((2, 0), (2, 1), (3, 2), (4, 3)))}
    names = LinkNames(links)
    assert [names.layer("stage1", n) for n in (2, 3, 4)] == ["2", "3", "out"]
    assert [names.source("stage1", n) for n in (0, 1, 2)] == ["in 0", "in 1", "2"]
    assert [names.source("elsewhere", n) for n in (0, 1)] == ["0", "1"]
    phrases = names.layer_phrase("stage1", 4), names.source_phrase("stage1", 2)
    assert phrases == ("the output", "2")
    one = LinkNames({"stage1": StageLinks(make_topology("plain", 1), ((1, 0), (2, 1)))})
    assert (one.source("stage1", 0), one.source_phrase("stage1", 0)) == ("in", "the input")


def test_numbers_have_signs_and_zero_has_none():
    assert [points(x) for x in (-0.125, 0.0, -0.0, 0.00001, 0.5)] == [
        "\u221212.50",
        "0.00",
        "0.00",
        "0.00",
        "+50.00",
    ]
    assert points(-0.0004, 1) == "0.0"
    assert loss_text(None) == "not finite"
    assert loss_text(0.25, "+") == "+0.2500"
