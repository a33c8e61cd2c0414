import json
import shutil
from pathlib import Path

import pytest

from aggnets_jax.data.objects import read_annotations
from aggnets_jax.errors import UserError


@pytest.fixture
def folder(scenes_dir, tmp_path):
    """A copy of the scenes, to be spoilt."""
    return Path(shutil.copytree(scenes_dir, tmp_path / "scenes"))


def spoil(folder, change):
    """Change the content of the training split's annotation file."""
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def read(folder, skip=False, masks=True):
    return read_annotations(str(folder), "train", masks=masks, skip=skip)


def test_scenes_have_nothing_wrong(scenes_dir):
    data = read(scenes_dir)
    content = json.loads(data.file.read_text())
    assert data.ground_truth()["images"] == content["images"]
    assert data.ground_truth()["annotations"] == content["annotations"]
    assert list(data.categories.items())[:2] == [(1, "0"), (4, "1")]
    assert data.left_out == 0
    assert data.path(0).name == "000001.png"
    # The last images have a crowd alone, and nothing.
    assert [len(data.trained(index)) for index in (-2, -1)] == [0, 0]
    assert [len(objects) for objects in data.objects[-2:]] == [1, 0]


def first(**changes):
    """Return a change of the first annotation."""
    return lambda content: content["annotations"][0].update(changes)


ANNOTATIONS = [
    (first(bbox=[3, 4, 0, 5]), "annotation 1 has the box [3, 4, 0, 5] without an area"),
    (first(bbox=[3, 4, -2, 5]), "annotation 1 has the box [3, 4, -2, 5] without an area"),
    (first(bbox=[64, 4, 9, 5]), "the box [64, 4, 9, 5] outside its image of 64x64"),
    (first(bbox=[1, 2, 3]), "the box [1, 2, 3], which must be four numbers"),
    (first(bbox=[1, 2, float("nan"), 3]), "which must be four numbers"),
    (first(area=0), "has the area 0"),
    (first(category_id=2), "has the category 2, which is not there"),
    (first(image_id=99), "is of the image 99, which is not there"),
    (first(image_id=[1]), "is of the image [1], which is not there"),
    (first(iscrowd=2), "has 2 as 'iscrowd'"),
    (first(id="a"), "annotation 0 of the list has no whole number as 'id'"),
    (first(id=2), "annotation 2 comes twice"),
    (first(segmentation=[]), "annotation 1 needs a mask"),
    (first(segmentation=[]), "for boxes alone, config.task_args.detector='faster_rcnn_fpn'"),
    (first(segmentation=[[1, 2, 3, 4]]), "annotation 1 needs a mask"),
    (
        first(segmentation={"size": [4, 4], "counts": [16]}),
        "a mask of the size [4, 4], not [64, 64]",
    ),
    (first(segmentation={"size": [64, 64], "counts": [9]}), "don't add up to its image"),
    (first(segmentation={"size": [64, 64], "counts": "garbage!!"}), "a mask without counts"),
    (first(segmentation={"size": [64, 64], "counts": "zzzzz"}), "a mask without counts"),
    (first(segmentation={"size": [64, 64], "counts": "000000"}), "don't add up to its image"),
    (first(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), "has a polygon far outside its image"),
    (lambda content: content["annotations"].insert(0, 5), "annotation 0 of the list has no whole"),
]


@pytest.mark.parametrize(("change", "message"), ANNOTATIONS)
def test_a_bad_annotation_is_named_or_left_out(folder, change, message, capsys):
    before = sum(map(len, read(folder).objects))
    spoil(folder, change)
    with pytest.raises(UserError) as error:
        read(folder)
    assert message in str(error.value)
    assert "config.data.damaged='skip'" in str(error.value)
    data = read(folder, skip=True)
    added = len(json.loads(data.file.read_text())["annotations"]) - before
    assert sum(map(len, data.objects)) == before + added - 1
    assert data.left_out == 1
    assert message in capsys.readouterr().err


IMAGES = [
    (lambda image: image.update(file_name="other.png"), "image 1 is missing"),
    (lambda image: image.update(file_name="../train/000001.png"), "image 1 has the file name"),
    (lambda image: image.update(width=0), "image 1 has the height 64 and the width 0"),
    (lambda image: image.update(id=2), "image 2 comes twice"),
    (lambda image: image.pop("id"), "image 0 of the list has no whole number as 'id'"),
]


@pytest.mark.parametrize(("change", "message"), IMAGES)
def test_a_bad_image_is_named_or_left_out_with_its_objects(folder, change, message):
    spoil(folder, lambda content: change(content["images"][0]))
    with pytest.raises(UserError, match="skip") as error:
        read(folder)
    assert message in str(error.value)
    data = read(folder, skip=True)
    assert len(data.images) == 9
    ids = {image["id"] for image in data.images}
    assert all(each["image_id"] in ids for objects in data.objects for each in objects)


def test_what_own_files_often_lack_is_added(folder):
    def strip(content):
        for each in content["annotations"]:
            del each["area"], each["iscrowd"], each["segmentation"]

    spoil(folder, strip)
    data = read(folder, masks=False)
    each = data.objects[0][0]
    assert each["area"] == each["bbox"][2] * each["bbox"][3]
    assert each["iscrowd"] == 0
    with pytest.raises(UserError, match=r"needs a mask.*and [0-9]+ more are wrong"):
        read(folder)


def test_a_box_that_leaves_its_image_is_an_object(folder):
    spoil(folder, first(bbox=[-3.5, 60, 20, 9]))
    assert read(folder).objects[0][0]["bbox"] == [-3.5, 60, 20, 9]


@pytest.mark.parametrize(
    ("box", "trained"),
    [
        ([63 - 1e-9, 5, 20, 9], True),
        ([63 + 1e-9, 5, 20, 9], False),  # in float32 its part in the image may have no width
        ([-19, 5, 20, 9], True),
        ([-19.5, 5, 20, 9], False),
        ([5, 63.5, 9, 20], False),
        ([5, 5, 0.9, 20], False),
    ],
)
def test_an_object_is_trained_if_it_has_a_pixel_in_its_image(folder, box, trained):
    before = len(read(folder).trained(0))
    spoil(folder, first(bbox=box))
    assert len(read(folder).trained(0)) == before - (not trained)


WHOLE_FILES = [
    ("{", "can't be read"),
    ("[]", "needs the list 'images'"),
    ('{"images": [], "annotations": []}', "needs the list 'categories'"),
    ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "needs an 'id' and a 'name'"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "has no images"),
]


@pytest.mark.parametrize(("content", "message"), WHOLE_FILES)
def test_a_file_of_another_format_is_an_error(folder, content, message):
    (folder / "annotations" / "instances_train.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read(folder, skip=True)


def test_a_split_that_is_not_there_has_its_nearest_named(scenes_dir, tmp_path):
    with pytest.raises(UserError, match=r"unknown split .*'tran'; nearest: train"):
        read_annotations(scenes_dir, "tran", masks=True, skip=False)
    with pytest.raises(UserError, match=r"needs the files instances_SPLIT\.json"):
        read(tmp_path)


def test_files_as_other_programs_write_them(scenes_dir, folder):
    """Windows' mark of UTF-8, pandas' floats, and empty fields."""
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image.update({name: float(image[name]) for name in ("id", "height", "width")})
    for each in content["annotations"]:
        names = ("id", "image_id", "category_id", "iscrowd")
        each.update({name: float(each[name]) for name in names})
    first(area=None, iscrowd=None)(content)
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    written, ours = read(scenes_dir), read(folder)
    assert ours.images == written.images
    *_, width, height = written.objects[0][0]["bbox"]
    expected = {**written.objects[0][0], "area": width * height}
    assert ours.objects[0] == (expected, *written.objects[0][1:])
    assert ours.objects[1:] == written.objects[1:]


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("sub/a.png", "sub\\a.png"),
    ],
)
def test_names_of_files_in_another_form(folder, stored, written):
    """As macOS stores accents, and as Windows writes folders."""
    (folder / "train" / stored).parent.mkdir(exist_ok=True)
    place = read(folder).path(0)
    place.rename(place.parent / stored)
    spoil(folder, lambda content: content["images"][0].update(file_name=written))
    assert read(folder).path(0) == place.parent / stored
