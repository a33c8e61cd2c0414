import pytest

from aggnets_jax.detection.voc import voc_figures

CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "absent"}]


def truth(*objects):
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "difficult": difficult}
        for i, (image, category, box, difficult) in enumerate(objects)
    ]
    return {"categories": CATEGORIES, "annotations": annotations}


def results(*found):
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in found
    ]


BOX, FAR = [0, 0, 10, 10], [50, 50, 10, 10]


def test_what_is_found_has_a_precision_of_1_up_to_its_recall():
    objects = truth((1, 1, BOX, 0), (2, 1, BOX, 0), (2, 2, FAR, 0))
    assert voc_figures(objects, []) == (0.0, {1: 0.0, 2: 0.0})
    every = results((1, 1, BOX, 0.9), (2, 1, BOX, 0.8), (2, 2, FAR, 0.1))
    assert voc_figures(objects, every) == (1.0, {1: 1.0, 2: 1.0})
    # Half of them: the recalls 0, 0.1, ..., 0.5, six of eleven.
    assert voc_figures(objects, every[:1])[1] == {1: pytest.approx(6 / 11), 2: 0.0}


def test_a_second_detection_of_an_object_is_wrong():
    objects = truth((1, 1, BOX, 0), (1, 1, FAR, 0))
    found = results((1, 1, BOX, 0.9), (1, 1, [0, 0, 10, 9], 0.8), (1, 1, FAR, 0.7))
    # Precision 1 at recall 0.5, then 2/3.
    assert voc_figures(objects, found)[0] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_iou_must_exceed_the_threshold():
    objects = truth((1, 1, BOX, 0))
    assert voc_figures(objects, results((1, 1, [0, 0, 10, 5], 0.9)))[0] == 0
    assert voc_figures(objects, results((1, 1, [0, 0, 10, 5.1], 0.9)))[0] == 1


def test_boxes_without_an_area_find_nothing():
    objects = truth((1, 1, [3, 3, 0, 0], 0), (2, 1, BOX, 0))
    assert voc_figures(objects, results((1, 1, [7, 7, 0, 0], 0.9)))[0] == 0


def test_difficult_objects_and_their_detections_count_nothing():
    objects = truth((1, 1, BOX, 0), (1, 1, FAR, 1))
    found = results((1, 1, FAR, 0.9), (1, 1, FAR, 0.8), (1, 1, BOX, 0.7))
    assert voc_figures(objects, found) == (1.0, {1: 1.0})
    assert voc_figures(truth((1, 1, BOX, 1)), found) == (-1.0, {})
