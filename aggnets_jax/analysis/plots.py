"""Heat maps on the links of a stage: one coloured square for each, white where there is none.

As in the papers (SparseNet, arXiv 1801.05895, Fig. 3; DenseNet, arXiv 1608.06993, Fig. 5) readers
go from left to right and what they read from top to bottom, so that the column of a layer says
whom it reads, and the row of a source by whom it is read. The last column is the stage's output, if
it has numbers; sources behind the last that has some are left out.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from aggnets_jax.connectivity.topology import Topology

# From blue to red, none of it white, for white says that there is no link.
COLOURS = "turbo"

_INCHES, _MOST_TICKS = 3.2, 17
_MOST_NUMBERS = 13  # columns of a map whose squares have room for their numbers


def draw_heat_map(
    axes: Axes,
    matrix: np.ndarray,
    topology: Topology,
    *,
    inputs: int = 1,
    limits: tuple[float, float] | None = None,
    colours: str = COLOURS,
) -> AxesImage:
    """Draws a number for each link of a stage.

    Args:
      axes: to draw into.
      matrix: float [N + 2, N + 1], by layer and source; NaN leaves a square white.
      topology: of the stage, of depth N.
      inputs: of the stage, y_0, ..., y_{inputs-1}; the first layer has this number.
      limits: the numbers at both ends of the colours; default those of the matrix.
      colours: name of a matplotlib colour map.

    Returns:
      The image, for a colour bar.
    """
    end = topology.depth + 1
    last = end if np.isfinite(matrix[end]).any() else end - 1
    # Layers before the first are those of which the stage's inputs stand in the place.
    numbers = matrix[inputs : last + 1].T
    rows = 1 + max(np.flatnonzero(np.isfinite(numbers).any(axis=1)), default=0)
    shown = np.ma.masked_invalid(numbers[:rows])
    low, high = (None, None) if limits is None else limits
    colour_map = matplotlib.colormaps[colours].with_extremes(bad="white")
    image = axes.imshow(
        shown,
        cmap=colour_map,
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
    axes.set_yticks(sources, [_source(s, inputs) for s in sources], fontsize=7)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylabel("reads", fontsize=8)
    return image


def _write_numbers(axes: Axes, image: AxesImage, matrix: np.ndarray, inputs: int) -> None:
    """Writes two digits into each square, black or white, as its colour is light or dark."""
    for layer, source in np.argwhere(np.isfinite(matrix)):
        if layer < inputs:
            continue
        value = matrix[layer, source]
        red, green, blue, _ = image.cmap(image.norm(value))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        colour = "black" if light else "white"
        text = f"{value:.2g}"
        axes.text(layer, source, text, color=colour, fontsize=6, ha="center", va="center")


def _source(source: int, inputs: int) -> str:
    if source >= inputs:
        return str(source)
    return "in" if inputs == 1 else f"in {source}"


def draw_heat_maps(
    figure: Figure,
    maps: Mapping[str, np.ndarray],
    topologies: Mapping[str, Topology],
    *,
    label: str,
    inputs: Mapping[str, int] | None = None,
    limits: tuple[float, float] | None = None,
    colours: str = COLOURS,
) -> None:
    """Draws the heat maps of several stages side by side, with one scale of colours for all.

    Args:
      figure: an empty one, which gets the size that they need.
      maps: by stage, float [N + 2, N + 1] each, with a number for at least one link.
      topologies: of these stages.
      label: what the numbers are.
      inputs: of these stages, see `draw_heat_map`; default 1.
      limits: of the colours; default those of all maps together.
      colours: name of a matplotlib colour map.
    """
    columns = min(4, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure.set_size_inches(_INCHES * columns + 0.8, _INCHES * rows)
    figure.set_layout_engine("compressed")
    panels = figure.subplots(rows, columns, squeeze=False)
    if limits is None:
        limits = (
            min(float(np.nanmin(each)) for each in maps.values()),
            max(float(np.nanmax(each)) for each in maps.values()),
        )
    for axes in panels.flat[len(maps) :]:
        axes.axis("off")
    for axes, (stage, matrix) in zip(panels.flat, maps.items(), strict=False):
        image = draw_heat_map(
            axes,
            matrix,
            topologies[stage],
            inputs=1 if inputs is None else inputs[stage],
            limits=limits,
            colours=colours,
        )
        axes.set_title(_broken(stage), fontsize=8)
    bar = figure.colorbar(image, ax=panels, shrink=0.8 if rows == 1 else 0.5)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _broken(name: str) -> str:
    """A long path of a module in two lines."""
    parts = name.split("/")
    half = len(parts) // 2
    return name if len(name) <= 20 else "/".join(parts[:half]) + "/\n" + "/".join(parts[half:])


def save_heat_maps(
    file: Path,
    maps: Mapping[str, np.ndarray],
    topologies: Mapping[str, Topology],
    *,
    label: str,
    inputs: Mapping[str, int] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draws heat maps into a file, see `draw_heat_maps`; its ending says the format."""
    figure = Figure(dpi=120)
    draw_heat_maps(figure, maps, topologies, label=label, inputs=inputs, limits=limits)
    figure.savefig(file, bbox_inches="tight")


_INCHES = 1.5  # side of a picture


# Its lightness grows with the value, so that the largest is the brightest over any image.
_COLOURS = "inferno"


def draw_overlays(
    images: np.ndarray, maps: Mapping[str, np.ndarray], captions: Sequence[str]
) -> Figure:
    """Draws a row for each image: a caption, the image, and the maps over it.

    The colours of each map go from 0 to its own largest value.

    Args:
      images: uint8 [n, height, width, channels].
      maps: by the title of their column, float [n, h, w], at least 0; resized bilinearly.
      captions: of each image, of few lines.
    """
    rows, columns = len(images), 1 + len(maps)
    size = (_INCHES * columns + 2, (_INCHES + 0.1) * rows + 1)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (axes, image, caption) in enumerate(zip(grid, images, captions, strict=True)):
        for column in axes:
            grey = image.shape[-1] == 1
            column.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255)
            column.set(xticks=[], yticks=[])
        for column, heat in zip(axes[1:], maps.values(), strict=True):
            _lay_over(column, heat[row], image.shape)
        # Names of classes are no formulas.
        axes[0].set_ylabel(
            caption, rotation=0, ha="right", va="center", fontsize=9, parse_math=False
        )
    titles = [f"{name}, {heat.shape[1]}x{heat.shape[2]}" for name, heat in maps.items()]
    for column, title in zip(grid[0], ["image", *titles], strict=True):
        column.set_title(title, fontsize=9)
    colours = ScalarMappable(cmap=_COLOURS)
    bar = figure.colorbar(colours, ax=grid, location="bottom", fraction=0.02, pad=0.01)
    bar.set_ticks([0, 1], labels=["0", "largest of the map"], fontsize=9)
    return figure


def _lay_over(axes: Axes, heat: np.ndarray, shape: Sequence[int]) -> None:
    height, width = shape[:2]
    axes.imshow(
        heat,
        cmap=_COLOURS,
        vmin=0,
        vmax=heat.max() or 1,
        alpha=0.65,
        interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
