"""Network dissection: the concepts that single channels of a network detect.

Bau, Zhou et al., "Network Dissection: Quantifying Interpretability of Deep Visual
Representations", CVPR 2017, arXiv 1704.05796; drawn in the HCGNet paper (Figure 4). A unit u is a
channel of an endpoint. Its threshold T_u is a high quantile of its activations over all positions
of all images, its mask M_u = (S(A_u) > T_u), with S the bilinear resizing to the labels' size, and

    IoU[u, c] = sum |M_u and L_c| / sum |M_u or L_c|,

summed over the images where M_u meets a label of c's category, or that have one as a whole. The
unit's label is the c of largest IoU; with at least 0.04 the unit is a detector. The number of
different labels is printed by category.

The original code estimates the threshold with a randomised sketch, at place 994 of 1000; here it is
the exact quantile of all activations. In an image without labels of pixels, the original adds to
the categories of the previous image; here it adds to none. The authors of HCGNet took the
activations after the global average (`--layer=pooled`), where a mask is a whole image or nothing.
Such masks favour labels of whole images: scenes and textures.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax.analysis import command
from aggnets_jax.analysis.broden import CATEGORIES, Broden, open_broden
from aggnets_jax.analysis.grad_cam import LAST_MAP, feature_maps
from aggnets_jax.analysis.units import (
    DETECTOR,
    QUANTILE,
    Dissection,
    Features,
    dissect,
    unique_detectors,
    unit_masks,
)
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import AnyPath, any_path, read_json, write_figure, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.workdir.restore import Restored

POOLED = "pooled"
"""Name of the layer `LAST_MAP` averaged over its positions."""

MEAN, STD = (124.6901, 118.6897, 109.5388), 0.224 * 255
"""Normalisation of the original code, of pixels in 0..255."""

_LUMA = (0.299, 0.587, 0.114)  # of grey pictures, ITU-R BT.601, as PIL's


def make_features(restored: Restored, layer: str, normalisation: str) -> Features:
    """Return a layer of a network, or its mean over positions, as a function of RGB images.

    Args:
      restored: network of a checkpoint, with the variables of one seed.
      layer: an endpoint with positions, or "pooled".
      normalisation: "network", as in its training, or "paper", as in the original code.

    Raises:
      UserError: if there is no such layer, or "paper" and the network takes grey images.
    """
    allowed = feature_maps(restored)
    if layer not in (POOLED, *allowed):
        raise unknown("layer", layer, (POOLED, *allowed))
    grey = restored.info.image_shape[-1] == 1
    if grey and normalisation == "paper":
        raise UserError("--normalisation=paper is for networks of colour images; this takes grey")
    network = (restored.info.mean, restored.info.std)
    mean, std = (np.asarray(x, np.float32) for x in network)
    if normalisation == "paper":
        mean, std = np.float32(MEAN) / 255, np.float32(STD) / 255

    def features(images: jax.Array) -> jax.Array:
        pixels = images.astype(jnp.float32) / 255
        if grey:
            pixels = pixels @ jnp.asarray(_LUMA, jnp.float32)[:, None]
        _, endpoints = restored.model.apply(restored.variables, (pixels - mean) / std, train=False)
        if layer == POOLED:
            return endpoints[LAST_MAP].mean(axis=(1, 2), keepdims=True)
        return endpoints[layer]

    return features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    add = parser.add_argument
    add("--data_dir", required=True, help="folder in Broden's format, such as broden1_224")
    text = f"endpoint to dissect, or {POOLED}: {LAST_MAP} averaged over positions, as in HCGNet's "
    add("--layer", default=LAST_MAP, help=f"{text}Figure 4; default {LAST_MAP}")
    text = "categories of labels, separated by commas; default all six"
    add("--categories", default=",".join(CATEGORIES), help=text)
    text = "a unit is on above this quantile of its activations; default 994/999"
    add("--quantile", type=float, default=QUANTILE, help=text)
    add("--iou", type=float, default=DETECTOR, help="smallest IoU of a detector; default 0.04")
    text = "normalise images as in training (network, the default) or as the authors (paper)"
    add("--normalisation", choices=("network", "paper"), default="network", help=text)
    add("--batch_size", type=int, default=64, help="images at a time; default 64")
    add("--units", type=int, default=8, help="number of units to draw, by largest IoU; default 8")
    text = "dissected run to draw beside this one; may be repeated"
    add("--beside", action="append", default=[], metavar="WORKDIR", help=text)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print the detectors, write tables, and draw counts and masks."""
    for name in ("quantile", "iou"):
        if not 0 < (value := getattr(given, name)) < 1:
            raise UserError(f"--{name} must be between 0 and 1, not {value}")
    if given.units < 1:
        raise UserError(f"--units must be at least 1, not {given.units}")
    others = {workdir: _read_counts(workdir) for workdir in given.beside}
    mesh = mesh_lib.make_mesh()
    if given.batch_size < 1 or given.batch_size % mesh.size:
        allowed = f"{mesh.size} (the devices), {2 * mesh.size}, ..."
        raise UserError(f"--batch_size must be one of {allowed}, not {given.batch_size}")
    broden = open_broden(given.data_dir, given.categories.split(","))
    features = make_features(restored, given.layer, given.normalisation)
    found = dissect(features, broden, mesh, batch_size=given.batch_size, quantile=given.quantile)
    counts = unique_detectors(found, broden, given.iou)
    masks = output / "dissection_units.png"
    write_figure(masks, draw_units(found, features, broden, given.units))
    write_json(output / "dissection.json", {"layer": given.layer, "unique": counts})
    title = f"{sum(counts.values())} unique detectors among {len(found.labels)} channels"
    records = unit_records(found, broden)
    detectors = [record for record in records if record["iou"] >= given.iou]
    shown = [{"category": name, "unique detectors": str(count)} for name, count in counts.items()]
    command.publish(
        output,
        command.headline(restored, given, f"{title} of {given.layer}"),
        shown,
        {"dissection": records},
        draw_counts({given.workdir: counts, **others}),
    )
    print(f"{len(detectors)} channels detect a label; {masks}")


def _read_counts(workdir: str) -> dict[str, int]:
    file = any_path(workdir) / "analysis" / "dissection.json"
    try:
        return {str(name): int(count) for name, count in read_json(file)["unique"].items()}
    except (AttributeError, OSError, KeyError, TypeError, ValueError):
        why = f"{file} is missing or damaged; make it by: aggnets analyse dissection"
        raise UserError(f"--beside={workdir}: {why} --workdir={workdir} ...") from None


def unit_records(found: Dissection, broden: Broden) -> list[dict[str, Any]]:
    """Return a record of each unit: `unit`, `label`, its `category`, `iou`, and `threshold`."""
    return [
        {
            "unit": unit,
            "label": broden.names[label],
            # A channel that is nowhere on has the label 0, which is of no category.
            "category": broden.categories[broden.primary[label]] if label else "",
            "iou": float(score),
            "threshold": float(threshold),
        }
        for unit, (label, score, threshold) in enumerate(
            zip(found.labels, found.scores, found.thresholds, strict=True)
        )
    ]


def draw_counts(networks: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw a bar for each network, divided by category, as Figure 4 of the HCGNet paper."""
    figure = Figure(figsize=(2 + 1.2 * len(networks), 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    bottom = np.zeros(len(networks))
    for category in dict.fromkeys(name for counts in networks.values() for name in counts):
        heights = np.array([counts.get(category, 0) for counts in networks.values()])
        axes.bar(range(len(networks)), heights, 0.6, bottom, label=category)
        bottom += heights
    axes.set_xticks(range(len(networks)), list(networks), rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("unique detectors")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def draw_units(found: Dissection, features: Features, broden: Broden, count: int) -> Figure:
    """Draw the units of largest IoU: the images that activate each most, dark outside its mask."""
    units = np.argsort(-found.scores, kind="stable")[:count]
    columns = found.top.shape[1]
    figure = Figure((1.1 * columns + 1.5, 1.15 * len(units)), dpi=120, layout="constrained")
    grid = figure.subplots(len(units), columns, squeeze=False)
    compute = jax.jit(features, compiler_options=compiler_options())
    for axes, unit in zip(grid, units, strict=True):
        images = broden.read(found.top[unit]).images
        activations = compute(images)[..., unit : unit + 1].astype(jnp.float32)
        for column, image, activation in zip(axes, images, activations, strict=True):
            mask = unit_masks(activation, found.thresholds[unit : unit + 1], image.shape[:2])
            column.imshow(np.where(mask, image, image // 4))
            column.set(xticks=[], yticks=[])
        label = broden.names[found.labels[unit]]
        text = f"{unit}: {label}\nIoU {found.scores[unit]:.3f}"
        style = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 8}
        axes[0].set_ylabel(text, **style, parse_math=False)
    return figure
