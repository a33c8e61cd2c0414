"""Parts of the page of a detector: average precision by class and size, curves, and images."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from aggnets_jax.connectivity.drawing import ACCENT, INK, LONG, SHORT
from aggnets_jax.data.image_files import read_picture
from aggnets_jax.data.objects import Annotated
from aggnets_jax.detection.coco import SIZES, CocoFigures, coco_figures
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step
from aggnets_jax.files import AnyPath
from aggnets_jax.predict.objects import draw_over
from aggnets_jax.reports.page.parts import Part
from aggnets_jax.reports.page.pictures import Picture, embedded, embedded_png
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.workdir.restore import restore_network

_IMAGES = 3  # best and worst ones
_MOST_CLASSES = 20  # of a picture; of more the best and the worst are drawn
_LEAST_SCORE = 0.3  # of drawn objects
_KINDS = {"bbox": "boxes", "segm": "masks"}


class _Evaluated:
    """The detections of the latest checkpoint, computed at first use."""

    def __init__(self, workdir: AnyPath, data_dir: str | None) -> None:
        self.workdir, self._data_dir = workdir, data_dir

    @cached_property
    def _found(self) -> tuple[int, Annotated, list[dict[str, Any]], tuple[str, ...]]:
        mesh = mesh_lib.make_mesh()
        restored = restore_network(self.workdir, "latest", mesh_lib.replicated(mesh))
        task = get_task(restored.config)
        batches = evaluation_batches(restored, mesh, self._data_dir)
        preprocess = task.make_preprocess(restored.config, restored.info)
        step = make_eval_step(task, restored.model, preprocess, mesh=mesh)
        results: list[Any] = []
        evaluate(task, step, restored.variables, batches, keep=results.extend)
        return restored.step, batches.data, results, task.kinds  # type: ignore[attr-defined]

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self._found[0]

    @property
    def data(self) -> Annotated:
        """The evaluation split."""
        return self._found[1]

    @property
    def results(self) -> list[dict[str, Any]]:
        """The detections in COCO's format."""
        return self._found[2]

    @cached_property
    def figures(self) -> dict[str, CocoFigures]:
        """COCO's figures of boxes and, if there are any, of masks."""
        truth = self.data.ground_truth()
        return {kind: coco_figures(truth, self.results, kind) for kind in self._found[3]}


def make_parts(workdir: AnyPath, data_dir: str | None) -> list[Part]:
    """Make all parts, in their order on the page; arguments and errors as for `write_page`."""
    evaluated = _Evaluated(workdir, data_dir)
    parts = []
    for part, make in (
        (Part("precision", "Average precision", paired=True), _precision),
        (Part("images", "Best and worst images"), _images),
    ):
        try:
            parts.append(make(evaluated, part))
        except UserError as error:
            parts.append(part._replace(missing=f"Not shown: {error}."))
    picture = workdir / "ablation" / "links.png"
    if picture.exists():
        text = "Change of the boxes' average precision by cutting a single link of the backbone."
        pictures = [Picture(embedded_png(picture), text, text, wide=True)]
        parts.append(Part("ablation", "Ablation of single links", [text], pictures))
    return parts


def _precision(evaluated: _Evaluated, part: Part) -> Part:
    pictures = []
    for kind, name in _KINDS.items():
        if kind not in evaluated.figures:
            continue
        figures = evaluated.figures[kind]
        categories = evaluated.data.categories
        caption = f"Average precision of {name} by class and size of the objects"
        if len(categories) > _MOST_CLASSES:
            caption += f", of the {_MOST_CLASSES // 2} best and worst of {len(categories)} classes"
        picture = embedded(_by_class(figures, categories))
        pictures.append(Picture(picture, caption, f"{caption}. Empty: no such objects."))
        caption = f"Precision of {name} by recall, the mean over classes, by least IoU."
        pictures.append(Picture(embedded(_curves(figures)), caption, caption))
    text = (
        "Average precision is the mean precision over all recalls and, without further words, over"
        " IoU thresholds from 0.5 to 0.95. Small objects have less than 32x32 pixels, large ones"
        f" more than 96x96. This is the network after step {evaluated.step}."
    )
    return part._replace(text=[text], pictures=pictures)


def _by_class(figures: CocoFigures, categories: Mapping[int, str]) -> Figure:
    """Draw AP of classes as rows and of sizes as columns, the best class first."""
    order = sorted(categories, key=lambda i: -figures.per_size[i]["all"])
    if len(order) > _MOST_CLASSES:
        order = order[: _MOST_CLASSES // 2] + order[-_MOST_CLASSES // 2 :]
    table = np.array([[figures.per_size[i][size] for size in SIZES] for i in order])
    table = np.where(table < 0, np.nan, 100 * table)
    figure = Figure(figsize=(5, 1 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, vmin=0, vmax=100, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(SIZES)), SIZES)
    axes.set_yticks(range(len(order)), [categories[i] for i in order])
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            ink = "white" if value > 60 else INK
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
    return figure


def _curves(figures: CocoFigures) -> Figure:
    """Draw precision by recall for three IoU thresholds."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    recalls = np.linspace(0, 1, 101)
    for threshold, colour in ((0.5, LONG), (0.75, ACCENT), (0.9, SHORT)):
        values = np.array(figures.precision[threshold])
        values = np.where(values < 0, np.nan, values)
        axes.plot(recalls, values, color=colour, label=f"IoU {threshold}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _images(evaluated: _Evaluated, part: Part) -> Part:
    scores = evaluated.figures["bbox"].per_image
    data = evaluated.data
    with_objects = [i for i, objects in enumerate(data.objects) if objects]
    places = sorted(with_objects, key=lambda i: -scores[data.images[i]["id"]])
    if not places:
        raise UserError("no image has an object")
    worst = places[::-1][: min(_IMAGES, len(places) // 2)]
    best = places[: min(_IMAGES, len(places) - len(worst))]
    pictures = []
    for name, chosen in (("best", best), ("worst", worst)):
        if chosen:
            number = f"{len(chosen)} images" if len(chosen) > 1 else "image"
            caption = f"The {name} {number}: annotated objects left, detected ones right."
            figure = _pairs(evaluated, chosen, scores)
            pictures.append(Picture(embedded(figure), caption, caption, wide=True))
    text = (
        "Images by their F1 score, 2 TP / (2 TP + FP + FN), at an IoU of 0.5 and with detections of"
        f" a score of at least {_LEAST_SCORE}."
    )
    return part._replace(text=[text], pictures=pictures)


def _pairs(evaluated: _Evaluated, places: Sequence[int], scores: Mapping[int, float]) -> Figure:
    """Draw images with their annotated and their detected objects beside each other."""
    data = evaluated.data
    figure = Figure(figsize=(7, 3 * len(places)), layout="constrained")
    for row, place in zip(figure.subplots(len(places), 2, squeeze=False), places, strict=True):
        image = data.images[place]
        found = [
            each
            for each in evaluated.results
            if each["image_id"] == image["id"] and each["score"] >= _LEAST_SCORE
        ]
        found.sort(key=lambda each: -each["score"])
        size = image["height"], image["width"]
        picture = Image.fromarray(read_picture(data.path(place).read_bytes(), size=size))
        for axes, objects in zip(row, (data.objects[place], found), strict=True):
            named = [{**each, "class": data.categories[each["category_id"]]} for each in objects]
            axes.imshow(draw_over(picture.copy(), named))
            axes.axis("off")
        row[0].set_title(f"{image['file_name']}: {scores[image['id']]:.2f}", fontsize=9, loc="left")
    return figure
