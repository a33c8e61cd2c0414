"""Heat maps show the number of each link where the link is."""

import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import make_topology
from aggnets_jax.analysis.plots import draw_heat_map, draw_heat_maps, make_panels
from aggnets_jax.connectivity.links import StageLinks


def numbers(topology):
    """Return 10 * layer + source, where there is a link."""
    matrix = np.full([topology.depth + 2, topology.depth + 1], np.nan)
    for layer, source in topology.links:
        matrix[layer, source] = 10 * layer + source
    return matrix


def shown(image):
    """Return the drawn values by the centre (x, y) of their squares."""
    values = image.get_array()
    left, right, bottom, top = image.get_extent()
    rows, columns = values.shape
    assert (right - left, bottom - top) == (columns, rows)  # squares of one unit
    return {
        (left + 0.5 + x, top + 0.5 + y): values[y, x]
        for y in range(rows)
        for x in range(columns)
        if not np.ma.is_masked(values[y, x])
    }


def test_each_link_is_a_square_at_its_layer_and_source():
    topology = make_topology("sparse", 6)
    axes = Figure().subplots()
    image = draw_heat_map(axes, numbers(topology), topology)
    assert shown(image) == {(n, s): 10 * n + s for n, s in topology.links}
    assert axes.get_xticklabels()[-1].get_text() == "out"
    assert axes.get_yticklabels()[0].get_text() == "in"
    # The first source is above the last.
    assert axes.yaxis_inverted()
    written = {text.get_position(): float(text.get_text()) for text in axes.texts}
    assert written == shown(image)


def test_numbers_are_written_where_there_is_room_in_ink_that_can_be_read():
    long, short = make_topology("dense", 30), make_topology("plain", 1)
    axes = Figure().subplots()
    draw_heat_map(axes, numbers(long), long)
    assert not axes.texts
    matrix = np.array([[np.nan, np.nan], [1.0, np.nan], [np.nan, 0.0]])
    draw_heat_map(axes, matrix, short, colours="Greys")
    assert [(t.get_text(), t.get_color()) for t in axes.texts] == [("1", "white"), ("0", "black")]


def test_stages_with_several_inputs_begin_at_their_first_layer():
    topology = make_topology("windowed", 5, window=2)
    matrix = numbers(topology)
    matrix[[0, 1, 6]] = np.nan  # nor has its output numbers
    axes = Figure().subplots()
    image = draw_heat_map(axes, matrix, topology, inputs=2)
    assert {x for x, _ in shown(image)} == {2, 3, 4, 5}
    assert axes.get_xlim() == (1.5, 5.5)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "3", "4", "5"]
    assert [tick.get_text() for tick in axes.get_yticklabels()[:3]] == ["in 0", "in 1", "2"]


def test_several_share_their_colours_and_long_ones_thin_their_ticks():
    topologies = {"a": make_topology("dense", 3), "b": make_topology("sparse", 60)}
    maps = {name: numbers(topology) for name, topology in topologies.items()}
    stages = {name: StageLinks(topology, topology.links) for name, topology in topologies.items()}
    figure = draw_heat_maps(maps, stages, label="tens of layers")
    images = [axes.get_images()[0] for axes in figure.axes[:2]]
    assert {image.get_clim() for image in images} == {(10, np.nanmax(maps["b"]))}
    ticks = figure.axes[1].get_xticks()
    assert len(ticks) < 25 and ticks[-1] == 61
    assert np.diff(ticks).min() >= 4


def test_panels_of_a_stage_are_below_each_other_and_four_stages_in_a_row():
    figure, panels = make_panels(5, 2, 3, margin=1, each=2)
    assert panels.shape == (5, 2)
    assert tuple(figure.get_size_inches()) == (9, 6)
    places = [axes.get_subplotspec() for axes in panels.flat]
    rows_and_columns = [(place.rowspan.start, place.colspan.start) for place in places]
    first_row = [(row, column) for column in range(4) for row in (0, 1)]
    assert rows_and_columns == [*first_row, (2, 0), (3, 0)]
    assert sum(axes.axison for axes in figure.axes) == 10
