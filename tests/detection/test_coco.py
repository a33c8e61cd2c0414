import copy

import numpy as np
import pytest

from aggnets_jax.detection.coco import FIGURES, SIZES, coco_figures
from aggnets_jax.detection.voc import voc_figures
from aggnets_jax.errors import UserError

TRUTH = {
    "images": [{"id": i, "height": 200, "width": 200} for i in (5, 7, 9)],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20]},
        {"id": 2, "image_id": 5, "category_id": 8, "bbox": [50, 50, 60, 60]},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 100]},
    ],
    "categories": [{"id": 3, "name": "three"}, {"id": 8, "name": "eight"}],
}
for each in TRUTH["annotations"]:
    each |= {"area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 6}, "result 1 is of image 6, which the annotations lack"),
        ({"score": float("nan")}, "result 1 must have a finite score"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"score": None}, "result 1 has no score"),
    ],
)
@pytest.mark.parametrize("figures", [lambda *given: coco_figures(*given, "bbox"), voc_figures])
def test_wrong_results_are_named(figures, changes, message):
    first, second = found(1, 2)
    wrong = {name: value for name, value in {**second, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        figures(TRUTH, [first, wrong])


def found(*which):
    return [
        {"score": 0.9, **{k: each[k] for k in ("image_id", "category_id", "bbox")}}
        for each in TRUTH["annotations"]
        if each["id"] in which
    ]


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("pycocotools")


def test_perfect_detections_have_all_figures_of_1():
    before = copy.deepcopy(TRUTH)
    figures = coco_figures(TRUTH, found(1, 2, 3), "bbox")
    assert before == TRUTH
    assert tuple(figures.figures) == FIGURES
    assert list(figures.figures.values()) == pytest.approx([1.0] * 12)
    sizes = {"all": 1.0, "small": 1.0, "medium": -1.0, "large": 1.0}
    assert figures.per_size[3] == pytest.approx(sizes)
    assert tuple(figures.per_size[8]) == SIZES
    assert figures.precision[0.5] == pytest.approx([1.0] * 101)
    assert figures.per_image == {5: 1.0, 7: 1.0, 9: 1.0}


@pytest.mark.parametrize("first", [0, -3, 2**53])
def test_figures_do_not_depend_on_the_ids_of_annotations(first):
    annotations = [{**each, "id": first + n} for n, each in enumerate(TRUTH["annotations"])]
    figures = coco_figures({**TRUTH, "annotations": annotations}, found(1, 2, 3), "bbox")
    assert figures.figures["AP"] == pytest.approx(1.0)
    assert figures.per_image == {5: 1.0, 7: 1.0, 9: 1.0}


def test_no_detections_are_figures_of_0():
    figures = coco_figures(TRUTH, [], "bbox")
    assert set(figures.figures.values()) == {0.0}
    assert figures.per_image == {5: 0.0, 7: 0.0, 9: 1.0}


def test_scores_of_images_count_hits_misses_and_wrong_detections():
    wrong = {"image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.8}
    weak = {**wrong, "image_id": 7, "score": 0.1}
    figures = coco_figures(TRUTH, [*found(1, 3), wrong, weak], "bbox")
    # A hit and a miss; a hit and a detection that doesn't count; a wrong detection.
    assert figures.per_image == pytest.approx({5: 2 / 3, 7: 1.0, 9: 0.0})
    assert figures.per_category[8] == 0
    assert np.mean(figures.precision[0.5][:50]) < 1


def test_another_kind_is_refused():
    with pytest.raises(UserError, match="nearest: segm"):
        coco_figures(TRUTH, [], "segms")
