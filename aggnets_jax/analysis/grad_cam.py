"""Grad-CAM: the places in an image where a network finds evidence for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, arXiv 1610.02391, eq. 1 and 2; drawn in the DSNet paper (Figure 5).
"""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.analysis import command
from aggnets_jax.analysis.command import Pictures, first_pictures
from aggnets_jax.analysis.plots import draw_overlays
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.files import AnyPath
from aggnets_jax.predict import find_images
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

PREDICTED, TRUE = "predicted", "true"
LAST_MAP = "pre_logits_2d"
MOST = 100  # rows of a picture that can still be looked at


class Maps(NamedTuple):
    """Evidence for a class in some images.

    Attributes:
      by_endpoint: by name, float32 [B, h, w] of the endpoint's height and width, at least 0, in
        logits (eq. 2). Before a global average it is the part that a position adds to the logit.
      classes: the class of each map, int32 [B].
      logits: of the images, float [B, classes].
    """

    by_endpoint: dict[str, jax.Array]
    classes: jax.Array
    logits: jax.Array


def grad_cam(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    endpoints: Sequence[str] = (LAST_MAP,),
    classes: jax.Array | None = None,
) -> Maps:
    """Compute Grad-CAM at some endpoints of a network, whatever follows them; traceable.

        alpha_k = mean over i, j of  d y_c / d A_k[i, j]     L = ReLU(sum over k of alpha_k A_k)

    where A is the endpoint and y_c the logit of the class, before softmax. The network needs no
    changes; see `logits_behind`.

    Args:
      model: a network of this package, or any that returns logits and endpoints.
      variables: of the network, with one seed.
      images: of any dtype that the network takes.
      endpoints: names of feature maps [B, h, w, channels].
      classes: the class of each image's map, int32 [B]; default the predicted ones.
    """
    logits, features = model.apply(variables, images, train=False)
    chosen = jnp.argmax(logits, axis=-1) if classes is None else classes
    maps = {}
    for name in endpoints:
        behind = logits_behind(model, variables, images, name)

        def total(x: jax.Array, behind: Callable[[jax.Array], jax.Array] = behind) -> jax.Array:
            # An image's logits depend on that image alone, so that one sum does for all of them.
            return jnp.sum(jnp.take_along_axis(behind(x), chosen[:, None], axis=-1))

        gradient = jax.grad(total)(features[name]).astype(jnp.float32)
        alpha = jnp.mean(gradient, axis=(1, 2), keepdims=True)
        maps[name] = nn.relu(jnp.sum(alpha * features[name].astype(jnp.float32), axis=-1))
    return Maps(maps, chosen.astype(jnp.int32), logits)


def logits_behind(
    model: nn.Module, variables: Variables, images: jax.Array, endpoint: str
) -> Callable[[jax.Array], jax.Array]:
    """Make the part of a network after an endpoint, as a function of the endpoint's features.

    The network is traced unchanged, and equations of the traced program that read the endpoint read
    the argument instead. So no network needs a place to cut it, and its own program stays the same.

    Features that reach the logits by another way are constants. In this package this happens only
    at the stem of SeqResNet and SeqResNeXt, whose endpoint is the activated features: the first
    shortcut adds the features before the activation.

    Returns:
      A function from an array of the endpoint's shape to logits [B, classes].
    """

    def network(features: jax.Array, variables: Variables, images: jax.Array) -> Any:
        del features  # their readers are found below
        return model.apply(variables, images, train=False)

    trace = jax.make_jaxpr(network, return_shape=True)
    _, shapes = jax.eval_shape(network, None, variables, images)
    traced, outputs = trace(shapes[endpoint], variables, images)
    leaves, structure = jax.tree.flatten(outputs)
    logits, places = jax.tree.unflatten(structure, range(len(leaves)))
    argument, read = traced.jaxpr.invars[0], traced.jaxpr.outvars[places[endpoint]]
    equations = [
        equation.replace(invars=[argument if atom is read else atom for atom in equation.invars])
        for equation in traced.jaxpr.eqns
    ]
    program = core.jaxpr_as_fun(
        core.ClosedJaxpr(traced.jaxpr.replace(eqns=equations), traced.consts)
    )
    inputs = jax.tree.leaves((variables, images))
    return lambda features: program(features, *inputs)[logits]


class Explained(NamedTuple):
    """Pictures with their Grad-CAM, see `Maps`."""

    pictures: Pictures
    maps: dict[str, np.ndarray]  # by endpoint, float32 [n, h, w]
    classes: np.ndarray  # the class of each picture's maps, int [n]
    probabilities: np.ndarray  # float [n, classes]


def feature_maps(restored: Restored) -> dict[str, tuple[int, int]]:
    """Return height and width of each endpoint that has them, by name."""
    images = jnp.zeros((1, *restored.info.image_shape))
    _, endpoints = jax.eval_shape(restored.model.apply, restored.variables, images)
    return {name: x.shape[1:3] for name, x in endpoints.items() if x.ndim == 4}


def explain(
    restored: Restored, pictures: Pictures, endpoints: Sequence[str], whose: str = PREDICTED
) -> Explained:
    """Compute the maps of at least one picture at some endpoints, all at once.

    `whose` selects the class: "predicted", "true" or a name.

    Raises:
      UserError: for an unknown endpoint or class, or if true classes are not known.
    """
    allowed = feature_maps(restored)
    for name in endpoints:
        if name not in allowed:
            raise unknown("endpoint", name, allowed)
    classes = _classes(restored, pictures, whose)
    preprocess = data.make_preprocess(restored.config.data, restored.info)

    @partial(jax.jit, compiler_options=compiler_options())
    def compute(
        variables: Variables, images: jax.Array, classes: jax.Array | None
    ) -> tuple[Maps, jax.Array]:
        images = preprocess({"image": images}, train=False)
        maps = grad_cam(restored.model, variables, images, endpoints, classes)
        return maps, jax.nn.softmax(maps.logits)

    maps, probabilities = jax.device_get(compute(restored.variables, pictures.images, classes))
    # Compiled functions return mappings sorted.
    by_endpoint = {name: maps.by_endpoint[name] for name in endpoints}
    return Explained(pictures, by_endpoint, maps.classes, probabilities)


def _classes(restored: Restored, pictures: Pictures, whose: str) -> np.ndarray | None:
    if whose == PREDICTED:
        return None
    if whose == TRUE:
        if pictures.labels is None:
            why = "of files the true classes are not known"
            raise UserError(f"--class={TRUE} is for images of the evaluation split; {why}")
        return np.asarray(pictures.labels, np.int32)
    names = restored.info.class_names
    if whose not in names:
        raise unknown("class", whose, (PREDICTED, TRUE, *names))
    return np.full(len(pictures.names), names.index(whose), np.int32)


def grad_cam_grid(
    restored: Restored,
    batches: data.EvalBatches,
    count: int = 8,
    endpoints: Sequence[str] = (LAST_MAP,),
) -> Figure:
    """Draw the first `count` images of the evaluation split and maps for the predicted classes.

    Raises:
      UserError: for an unknown endpoint.
    """
    explained = explain(restored, first_pictures(batches, count), endpoints)
    return draw(explained, restored.info.class_names)


def draw(explained: Explained, class_names: Sequence[str]) -> Figure:
    """Draw a row for each image: the image, then its maps."""
    captions = [_caption(explained, row, class_names) for row in range(len(explained.classes))]
    return draw_overlays(explained.pictures.images, explained.maps, captions)


def _caption(explained: Explained, row: int, class_names: Sequence[str]) -> str:
    lines = []
    if explained.pictures.labels is not None:
        lines.append(f"true: {_short(class_names[explained.pictures.labels[row]])}")
    probabilities, shown = explained.probabilities[row], explained.classes[row]
    predicted = int(np.argmax(probabilities))
    lines.append(f"predicted: {_short(class_names[predicted])} ({probabilities[predicted]:.0%})")
    if shown != predicted:
        lines.append(f"map of: {_short(class_names[shown])} ({probabilities[shown]:.0%})")
    return "\n".join(lines)


def _short(name: str) -> str:
    return textwrap.shorten(name, 22, placeholder="...") if " " in name else name[:22]


def of_each_map(explained: Explained, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of the CSV file, one for each image and endpoint.

    `largest` is the map's largest value in logits, and `row` and `column` the pixel of the image
    at the centre of this element, or None if no element is above 0.
    """
    pictures = explained.pictures
    labels = [None] * len(pictures.names) if pictures.labels is None else pictures.labels
    found = []
    for number, (name, label) in enumerate(zip(pictures.names, labels, strict=True)):
        probabilities, shown = explained.probabilities[number], explained.classes[number]
        for endpoint, maps in explained.maps.items():
            heat = maps[number]
            row = column = None
            if heat.max() > 0:
                place = np.array(np.unravel_index(np.argmax(heat), heat.shape))
                scale = np.array(pictures.images.shape[1:3]) / heat.shape
                row, column = map(float, (place + 0.5) * scale - 0.5)
            found.append(
                {
                    "image": name,
                    "true": None if label is None else class_names[label],
                    "predicted": class_names[int(np.argmax(probabilities))],
                    "class": class_names[shown],
                    "probability": float(probabilities[shown]),
                    "endpoint": endpoint,
                    "height": heat.shape[0],
                    "width": heat.shape[1],
                    "largest": float(heat.max()),
                    "row": row,
                    "column": column,
                }
            )
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    add = parser.add_argument
    text = f"feature map to draw; may be repeated; default {LAST_MAP}, the last one"
    add("--endpoint", action="append", help=text)
    text = f"{PREDICTED}, {TRUE} or the name of a class; default {PREDICTED}"
    add("--class", dest="whose", default=PREDICTED, help=text)
    text = "image file or folder; may be repeated; default: the evaluation split"
    add("--images", action="append", help=text)
    command.add_count(parser, default=8)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the maps of some images."""
    if not 1 <= given.count <= MOST:
        raise UserError(f"--count must be between 1 and {MOST}, not {given.count}")
    endpoints = tuple(dict.fromkeys(given.endpoint or [LAST_MAP]))
    explained = explain(restored, _pictures(restored, given), endpoints, given.whose)
    records = of_each_map(explained, restored.info.class_names)
    title = command.headline(restored, given, "Grad-CAM")
    figure = draw(explained, restored.info.class_names)
    command.publish(output, title, list(map(_cells, records)), {"grad_cam": records}, figure)


def _pictures(restored: Restored, given: argparse.Namespace) -> Pictures:
    mesh = mesh_lib.make_mesh()
    if not given.images:
        return first_pictures(evaluation_batches(restored, mesh, given.data_dir), given.count)
    if given.data_dir is not None:
        raise UserError("--data_dir is for the evaluation split; leave it out with --images")
    files = find_images(given.images)[: given.count]
    size = -(-len(files) // mesh.size) * mesh.size
    sharding = mesh_lib.batch_sharding(mesh)
    batches = data.file_batches(files, restored.info, batch_size=size, sharding=sharding)
    return first_pictures(batches, len(files))._replace(names=tuple(files), labels=None)


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    row = record["row"]
    return {
        "image": record["image"],
        "true": record["true"] or "",
        "predicted": record["predicted"],
        "map of": record["class"],
        "probability": f"{record['probability']:.2%}",
        "endpoint": record["endpoint"],
        "map": f"{record['height']}x{record['width']}",
        "largest": f"{record['largest']:.3g}",
        "at row, column": "" if row is None else f"{row:g}, {record['column']:g}",
    }
