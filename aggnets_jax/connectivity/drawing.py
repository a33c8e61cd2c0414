"""Pictures of connection patterns."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.files import PathLike, any_path, write_figure

# Colours of the shortest and the longest links, of layers and text, and of the input and output.
SHORT, LONG, INK, ACCENT = "#9db4c0", "#c1440e", "#253237", "#1f6f8b"

_FLATNESS = 0.6  # height of an arc over its width


def draw_topology(topology: Topology, axes: Axes) -> None:
    """Draw the outputs of a stage in a row, and each link as an arc; longer ones are redder.

    The left square is the stage's input and the right one its output. The title counts the links
    into layers and, after a plus, the links into the output.
    """
    colours = LinearSegmentedColormap.from_list("links", [SHORT, LONG])
    end = topology.depth + 1
    # Arcs are thinner and fainter where there are many.
    weight = min(1.0, (12 * end / len(topology.links)) ** 0.5)
    for layer, source in topology.links:
        length = layer - source
        arc = Arc(((layer + source) / 2, 0), length, _FLATNESS * length, theta2=180)
        colour = colours((length - 1) / max(1, end - 1))
        arc.set(color=colour, linewidth=0.4 + 1.2 * weight, alpha=0.35 + 0.6 * weight)
        axes.add_patch(arc)
    size = max(2.0, min(7.0, 160 / end))
    axes.plot(range(1, end), [0] * topology.depth, "o", color=INK, markersize=size)
    axes.plot([0, end], [0, 0], "s", color=ACCENT, markersize=size + 1)
    axes.set(xlim=(-0.7, end + 0.7), ylim=(-0.7, _height(topology)), aspect="equal")
    axes.axis("off")
    links = f"{topology.num_links} + {len(topology.output_sources)} links"
    title = f"{topology.name}: {topology.depth} layers, {links}"
    axes.set_title(title, fontsize=10, color=INK)


def _height(topology: Topology) -> float:
    longest = max(layer - source for layer, source in topology.links)
    return _FLATNESS * longest / 2 + 0.7


def save_topologies(topologies: Sequence[Topology], file: PathLike) -> None:
    """Draw patterns below each other and save them; the file's extension is the format."""
    heights = [_height(topology) + 0.7 for topology in topologies]
    inches = 10 / max(topology.depth + 2.4 for topology in topologies)
    figure = Figure(figsize=(10, inches * sum(heights) + 0.4 * len(heights)), dpi=120)
    grid = figure.subplots(len(topologies), 1, squeeze=False, height_ratios=heights)
    for topology, axes in zip(topologies, grid.flat, strict=True):
        draw_topology(topology, axes)
    figure.tight_layout()
    write_figure(any_path(file), figure)
