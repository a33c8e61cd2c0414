"""Pictures of the page as data URIs, so that the page needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax.buckets import storage
from aggnets_jax.connectivity.drawing import draw_topology
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath, explained
from aggnets_jax.reports.curves import draw_curve, points
from aggnets_jax.reports.metrics import Metric

_PNG = b"\x89PNG\r\n\x1a\n"
_INCHES = 8  # largest width of a connection pattern
_LARGE = 500_000  # bytes of an SVG above which pixels are the lighter form


class Picture(NamedTuple):
    """A figure of the page.

    Attributes:
      source: data URI.
      alt: description for readers who can't see it.
      caption: below the picture.
      wide: whether it keeps a readable width, and scrolls on narrow screens.
    """

    source: str
    alt: str
    caption: str
    wide: bool = False


def embedded(figure: Figure) -> str:
    """Return a figure as a data URI: SVG, or PNG if the SVG is large; deterministic."""
    with matplotlib.rc_context({"svg.hashsalt": "aggnets_jax"}):
        svg = _saved(figure, format="svg", metadata={"Date": None})
    if len(svg) <= _LARGE:
        return _data_uri("svg+xml", svg)
    return _data_uri("png", _saved(figure, format="png", dpi=160))


def embedded_png(file: AnyPath) -> str:
    """Return a PNG file as a data URI; raise `UserError` if it can't be read, or is no PNG."""
    with explained(f"{file} can't be read"), storage(file):
        png = file.read_bytes()
    if not png.startswith(_PNG):
        raise UserError(f"{file} is damaged: it is no PNG")
    return _data_uri("png", png)


def _saved(figure: Figure, **how: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, **how)
    return file.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def curve_pictures(lines: Sequence[Mapping[str, Any]], curves: Sequence[Metric]) -> list[Picture]:
    """Draw curves, of `curves_of`, by step, from the lines of `metrics.jsonl`."""
    pictures = []
    for curve in curves:
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        draw_curve(lines, curve, axes)
        axes.spines[["top", "right"]].set_visible(False)
        last = [*points(lines, curve.name).values()][-1:]
        end = f", at the end {last[0]:.4g}" if last else ""
        alt = f"Curve of the {curve.title} by step{end}."
        pictures.append(Picture(embedded(figure), alt, curve.caption))
    return pictures


def topology_pictures(topologies: Sequence[Topology]) -> list[Picture]:
    """Draw the connection pattern of each stage; equal stages share a picture."""
    stages: dict[Topology, list[str]] = {}
    for number, topology in enumerate(topologies, start=1):
        stages.setdefault(topology, []).append(str(number))
    pictures = []
    for topology, numbers in stages.items():
        figure = Figure()
        axes = figure.add_axes((0, 0, 1, 1))
        draw_topology(topology, axes)
        axes.set_title("")  # the caption says it
        left, right, bottom, top = (*axes.get_xlim(), *axes.get_ylim())
        axes.set(xlim=(left + 0.4, right - 0.4), ylim=(bottom + 0.4, top - 0.4))
        width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
        inches = min(_INCHES / width, 1)  # length of a link between neighbours
        figure.set_size_inches(inches * width, inches * height)
        where = f"Stage {numbers[0]}"
        if len(numbers) > 1:
            where = f"Stages {', '.join(numbers[:-1])} and {numbers[-1]}"
        links = f"{topology.num_links} + {len(topology.output_sources)} links"
        layers = f"{topology.depth} layer{'s' if topology.depth > 1 else ''}"
        caption = f"{where}: {topology.name}, {layers}, {links}."
        alt = f"Arcs from each output to the layers that read it. {caption}"
        pictures.append(Picture(embedded(figure), alt, caption, wide=topology.depth > 20))
    return pictures
