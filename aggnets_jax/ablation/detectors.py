"""Average precision of a detector without sets of links of its backbone.

Average precision is no mean over images. Each network is therefore evaluated on the whole split, by
one program that takes the masks as an input, and there are no confidence intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from aggnets_jax.ablation.sets import CutSet, StageLink
from aggnets_jax.ablation.tally import BOX_COLUMNS, MASK_COLUMNS
from aggnets_jax.connectivity import links as links_lib
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step
from aggnets_jax.tables import print_table
from aggnets_jax.tasks import get_task
from aggnets_jax.workdir.restore import Restored

_SHOWN = 10


class Precision(NamedTuple):
    """COCO's figures of a detector, in 0..1, and their changes by cutting links.

    Attributes:
      bbox_AP: average precision of the boxes.
      delta: its change.
      bbox_AP50: average precision of the boxes at an IoU of 0.5.
      segm_AP: average precision of the masks; NaN, like the next two, for a detector without masks.
      segm_delta: its change.
      segm_AP50: average precision of the masks at an IoU of 0.5.
    """

    bbox_AP: float
    delta: float
    bbox_AP50: float
    segm_AP: float
    segm_delta: float
    segm_AP50: float


def columns(restored: Restored) -> tuple[str, ...]:
    """Return the fields of a `Precision` that a detector has."""
    return (*BOX_COLUMNS, *(MASK_COLUMNS if restored.model.masks else ()))


def measure(
    restored: Restored,
    mesh: Mesh,
    stages: Mapping[str, links_lib.StageLinks],
    sets: Sequence[CutSet],
    data_dir: str | None,
) -> tuple[Precision, list[Precision], int]:
    """Evaluate a detector without each of some sets of links.

    Returns:
      The metrics with all links, the metrics without each set, and the number of images.
    """
    task = get_task(restored.config)
    batches = evaluation_batches(restored, mesh, data_dir)
    preprocess = task.make_preprocess(restored.config, restored.info)
    step = make_eval_step(task, restored.model, preprocess, mesh=mesh)

    def figures(cut: Sequence[StageLink]) -> dict[str, Any]:
        links = links_lib.collection(links_lib.masks_without(stages, cut))["links"]
        variables = {**restored.variables, "links": {"backbone": links}}
        return evaluate(task, step, variables, batches)

    whole = figures(())
    measured = []
    for number, cut in enumerate(sets, start=1):
        measured.append(_precision(figures(cut.links), whole))
        print(f"set {number} of {len(sets)}: box AP {measured[-1].bbox_AP:.4f}", flush=True)
    return _precision(whole, whole), measured, whole["examples"]


def _precision(found: Mapping[str, float], whole: Mapping[str, float]) -> Precision:
    values = []
    for kind in ("bbox", "segm"):
        average = found.get(f"{kind}_AP", float("nan"))
        change = average - whole.get(f"{kind}_AP", float("nan"))
        values += [average, change, found.get(f"{kind}_AP50", float("nan"))]
    return Precision(*values)


def print_worst(title: str, rows: Sequence[tuple[CutSet, Precision]], *, masks: bool) -> None:
    """Print the sets by the loss of box AP, the largest first."""
    worst = sorted(rows, key=lambda row: row[1].delta)[:_SHOWN]
    shown = []
    for cut, found in worst:
        row = {name: str(value) for name, value in cut.key.items() if name != "cut"}
        row |= {"box AP": f"{100 * found.bbox_AP:.2f}", "change": f"{100 * found.delta:+.2f}"}
        if masks:
            row |= {"mask AP": f"{100 * found.segm_AP:.2f}"}
            row |= {"change of masks": f"{100 * found.segm_delta:+.2f}"}
        shown.append(row)
    print_table(shown, f"{title}: {len(shown)} of {len(rows)}", left=("stage", "set"))
