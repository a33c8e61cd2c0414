"""Objects in files: the same as in the evaluation, as tables, and drawn."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.main import main
from aggnets_jax.predict import draw_objects, predict
from aggnets_jax.predict.objects import Detected, _as_split, draw, draw_over, json_records, table


@pytest.fixture
def workdir(finished_detection, tmp_path):
    return shutil.copytree(finished_detection, tmp_path / "run")


@pytest.fixture
def test_images(scenes_dir):
    return Path(scenes_dir) / "test"


@pytest.mark.slow
def test_objects_in_files_are_those_of_the_evaluation(workdir, scenes_dir, test_images):
    evaluate_checkpoint(workdir)
    results = json.loads((workdir / "results.json").read_text())
    annotations = Path(scenes_dir) / "annotations" / "instances_test.json"
    content = json.loads(annotations.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = {Path(each.image).name: each for each in predict(workdir, [test_images], least_score=0)}
    assert len(results) > 0
    for image in content["images"]:
        wanted = [each for each in results if each["image_id"] == image["id"]]
        detected = found[image["file_name"]]
        assert detected.size == (image["height"], image["width"])
        assert len(detected.objects) == len(wanted)
        for each, result in zip(detected.objects, wanted, strict=True):
            assert each["class"] == names[each["category_id"]]
            assert each["category_id"] == result["category_id"]
            assert each["score"] == pytest.approx(result["score"], rel=1e-4)
            np.testing.assert_allclose(each["bbox"], result["bbox"], rtol=1e-3, atol=1e-2)
            assert each["segmentation"]["size"] == result["segmentation"]["size"]


def test_the_command_writes_tables_and_pictures(workdir, test_images, tmp_path, capsys):
    first = sorted(test_images.glob("*"))[0]
    base = ["predict", f"--workdir={workdir}", f"--images={first}", "--score=0.05"]
    drawn = tmp_path / "drawn"
    assert main([*base, "--format=json", f"--output={tmp_path / 'o.json'}", f"--draw={drawn}"]) == 0
    (record,) = json.loads((tmp_path / "o.json").read_text())
    assert record["image"] == str(first)
    assert {"class", "category_id", "bbox", "score", "segmentation"} == set(record["objects"][0])
    assert [file.name for file in drawn.iterdir()] == [f"{first.stem}.png"]
    assert main([*base, "--format=csv", f"--output={tmp_path / 'o.csv'}"]) == 0
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(record["objects"])
    assert [float(rows[0][k]) for k in ("x", "y", "width", "height")] == record["objects"][0][
        "bbox"
    ]
    capsys.readouterr()
    assert main([*base[:-1], "--score=1"]) == 0
    assert first.name[:3] in capsys.readouterr().out


def test_arguments_of_the_other_task_are_refused(finished_detection, finished_run, test_images):
    with pytest.raises(UserError, match="top is for classification"):
        predict(finished_detection, [test_images], top=1)
    with pytest.raises(UserError, match="score is for detection"):
        predict(finished_run, [test_images], least_score=0.5)
    with pytest.raises(UserError, match=r"in 0\.\.1, not 2"):
        predict(finished_detection, [test_images], least_score=2)


def test_a_file_that_is_stored_turned_is_upright(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    split = _as_split([str(tmp_path / "a.png")], {1: "a"})
    assert (split.images[0]["height"], split.images[0]["width"]) == (30, 20)
    drawn = np.asarray(draw(Detected(str(tmp_path / "a.png"), (30, 20), ())))
    height = len(drawn)
    assert drawn[: height // 3].min() == 255
    assert drawn[height // 3 :].max() == 0


def test_a_file_that_is_no_image_is_named(finished_detection, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.png is damaged or no image"):
        predict(finished_detection, [tmp_path])


BOX = {"class": "three", "category_id": 3, "score": 0.75, "bbox": [10.0, 20.0, 30.0, 40.0]}


def test_boxes_are_drawn_where_they_are_and_pictures_get_names_of_their_own(tmp_path):
    images = [str(tmp_path / name) for name in ("x.png", "x_2.png", "b/x.png")]
    (tmp_path / "b").mkdir()
    for image in images:
        Image.new("RGB", (300, 320)).save(image)
    files = draw_objects([Detected(name, (320, 300), (BOX,)) for name in images], tmp_path / "d")
    assert [file.name for file in files] == ["x.png", "x_2.png", "x_1.png"]
    pixels = np.asarray(Image.open(files[0]))
    assert pixels.shape == (320, 300, 3)
    assert pixels[40, 10].any() and pixels[60, 25].any()
    assert not pixels[40, 25].any()
    assert not pixels[100:].any()


def test_small_pictures_are_enlarged():
    picture = draw_over(Image.new("RGB", (64, 100)), [BOX])
    assert picture.size == (256, 400)
    assert np.asarray(picture)[4 * 40, 4 * 10].any()


def test_an_image_without_objects_has_a_row_in_the_table_and_a_record():
    nothing = Detected("x.png", (5, 6), ())
    assert table([nothing]).row_count == 1
    record = {"image": "x.png", "height": 5, "width": 6, "objects": []}
    assert json_records([nothing]) == [record]


def test_drawings_replace_no_image(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b.png")]
    for file in files:
        Image.new("RGB", (30, 20)).save(file)
    before = files[1].read_bytes()
    detected = [Detected(str(file), (30, 20), ()) for file in files]
    with pytest.raises(UserError, match=f"would replace the image {files[1]}"):
        draw_objects(detected, tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    assert files[1].read_bytes() == before
