"""Pictures of several analyses: panels for stages, heat maps on links, maps laid over images.

A heat map has a coloured square for each link of a stage, and is white where there is no link. As
in the papers (SparseNet, arXiv 1801.05895, Fig. 3; DenseNet, arXiv 1608.06993, Fig. 5) layers go
from left to right and the outputs that they read from top to bottom. The last column is the stage's
output, if it has numbers; sources after the last one with a number are left out.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from aggnets_jax.analysis.taps import inputs_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.connectivity.topology import Topology

# From blue to red; white is no colour of it, as white squares are no links.
COLOURS = "turbo"

_MOST_TICKS = 17
_MOST_NUMBERS = 13  # columns of a map whose squares have room for their numbers


def make_panels(
    count: int, width: float, height: float, *, margin: float = 0, each: int = 1
) -> tuple[Figure, np.ndarray]:
    """Make a figure with panels for `count` stages, four stages in a row.

    Panels have this width, and the `each` panels of a stage, one below the other, this height
    together; they are in inches, as the margin at the right of the figure. Returns the figure, and
    its panels [count, each].
    """
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure = Figure((width * columns + margin, height * rows), dpi=120, layout="compressed")
    panels = figure.subplots(each * rows, columns, squeeze=False)
    panels = panels.reshape(rows, each, columns).transpose(0, 2, 1).reshape(-1, each)
    for axes in panels[count:].flat:
        axes.axis("off")
    return figure, panels[:count]


def label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label small axes, of which x has whole numbers."""
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def add_legend(axes: Axes) -> None:
    """Add the legend of lines or bars that have the names of folders, if there are any."""
    if not axes.get_legend_handles_labels()[0]:
        return
    for text in axes.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)  # names of folders are no formulas


def draw_heat_map(
    axes: Axes,
    matrix: np.ndarray,
    topology: Topology,
    *,
    inputs: int = 1,
    limits: tuple[float, float] | None = None,
    colours: str = COLOURS,
) -> AxesImage:
    """Draw a number for each link of a stage; return the image, for a colour bar.

    The stage has the inputs y_0, ..., y_{inputs-1}. `limits` are the numbers at both ends of the
    colours, by default those of the matrix, and `colours` names a matplotlib colour map.
    """
    end = topology.depth + 1
    last = end if np.isfinite(matrix[end]).any() else end - 1
    # The stage's inputs have the numbers before the first layer's.
    numbers = matrix[inputs : last + 1].T
    rows = 1 + max(np.flatnonzero(np.isfinite(numbers).any(axis=1)), default=0)
    shown = np.ma.masked_invalid(numbers[:rows])
    low, high = (None, None) if limits is None else limits
    image = axes.imshow(
        shown,
        cmap=matplotlib.colormaps[colours].with_extremes(bad="white"),
        vmin=low,
        vmax=high,
        extent=(inputs - 0.5, last + 0.5, rows - 0.5, -0.5),
        interpolation="none",
    )
    if shown.shape[1] <= _MOST_NUMBERS:
        _write_numbers(axes, image, matrix, inputs)
    step = math.ceil((end + 1) / _MOST_TICKS)
    layers = [*range(inputs, last, step), last]
    if step > 1 and last - layers[-2] <= step:
        del layers[-2]
    labels = ["out" if layer == end else str(layer) for layer in layers]
    axes.set_xticks(layers, labels, fontsize=7)
    sources = range(0, rows, step)
    names = ["in"] if inputs == 1 else [f"in {source}" for source in range(inputs)]
    names += map(str, range(inputs, rows))
    axes.set_yticks(sources, names[:rows:step], fontsize=7)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylabel("reads", fontsize=8)
    return image


def _write_numbers(axes: Axes, image: AxesImage, matrix: np.ndarray, inputs: int) -> None:
    """Write two digits into each square, in black on light colours and in white on dark ones."""
    style = {"fontsize": 6, "ha": "center", "va": "center"}
    for layer, source in np.argwhere(np.isfinite(matrix)):
        if layer >= inputs:
            value = matrix[layer, source]
            red, green, blue, _ = image.cmap(image.norm(value))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(layer, source, f"{value:.2g}", color="black" if light else "white", **style)


def draw_heat_maps(
    matrices: Mapping[str, np.ndarray],
    stages: Mapping[str, StageLinks],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw the heat maps of several stages side by side, with one scale of colours for all.

    Each stage's matrix has at least one number. `label` is the name of the numbers, and `limits`
    are of the colours, by default those of all matrices together.
    """
    figure, panels = make_panels(len(matrices), 3.2, 3.2, margin=0.8)
    everywhere = figure.axes
    if limits is None:
        limits = (
            min(float(np.nanmin(each)) for each in matrices.values()),
            max(float(np.nanmax(each)) for each in matrices.values()),
        )
    for (axes,), (name, matrix) in zip(panels, matrices.items(), strict=True):
        shape = {"topology": stages[name].topology, "inputs": inputs_of(stages[name])}
        image = draw_heat_map(axes, matrix, **shape, limits=limits)
        axes.set_title(_in_two_lines(name), fontsize=8)
    bar = figure.colorbar(image, ax=everywhere, shrink=0.8 if len(matrices) <= 4 else 0.5)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _in_two_lines(name: str) -> str:
    """Break a long path of a module."""
    parts = name.split("/")
    half = len(parts) // 2
    return name if len(name) <= 20 else "/".join(parts[:half]) + "/\n" + "/".join(parts[half:])


# Its lightness grows with the value, so that the largest is the brightest over any image.
_OVERLAY_COLOURS = "inferno"
_OVERLAY_INCHES = 1.5


def draw_overlays(
    images: np.ndarray, maps: Mapping[str, np.ndarray], captions: Sequence[str]
) -> Figure:
    """Draw a row for each image: a caption, the image, and the maps over it.

    The colours of each map go from 0 to its own largest value. Images are uint8 [n, height, width,
    channels]; maps, by the title of their column, float [n, h, w], at least 0, resized bilinearly.
    """
    rows, columns = len(images), 1 + len(maps)
    size = (_OVERLAY_INCHES * columns + 2, (_OVERLAY_INCHES + 0.1) * rows + 1)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (axes, image, caption) in enumerate(zip(grid, images, captions, strict=True)):
        height, width, channels = image.shape
        for column in axes:
            column.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255)
            column.set(xticks=[], yticks=[])
        for column, heat in zip(axes[1:], maps.values(), strict=True):
            column.imshow(
                heat[row],
                cmap=_OVERLAY_COLOURS,
                vmin=0,
                vmax=heat[row].max() or 1,
                alpha=0.65,
                interpolation="bilinear",
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )
        style = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
        axes[0].set_ylabel(caption, **style, parse_math=False)  # names of classes are no formulas
    titles = [f"{name}, {heat.shape[1]}x{heat.shape[2]}" for name, heat in maps.items()]
    for column, title in zip(grid[0], ["image", *titles], strict=True):
        column.set_title(title, fontsize=9)
    place = {"location": "bottom", "fraction": 0.02, "pad": 0.01}
    bar = figure.colorbar(ScalarMappable(cmap=_OVERLAY_COLOURS), ax=grid, **place)
    bar.set_ticks([0, 1], labels=["0", "largest of the map"], fontsize=9)
    return figure
