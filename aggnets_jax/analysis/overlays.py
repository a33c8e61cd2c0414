"""Images with maps laid over them, in a grid."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

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
