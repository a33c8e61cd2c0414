import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data.objects import scenes
from aggnets_jax.data.objects.scenes import SPLITS, make_scene, prepare_scenes, write_scenes
from aggnets_jax.errors import UserError
from aggnets_jax.main import main


def test_the_same_arguments_give_the_same_files(scenes_dir, tmp_path):
    write_scenes(tmp_path / "again", {"train": 10, "test": 6})
    files = sorted(file for file in (tmp_path / "again").rglob("*.*") if file.is_file())
    assert len(files) == 18
    for file in files:
        there = file.read_bytes()
        assert (tmp_path / "again").joinpath(file).read_bytes() == there
        relative = file.relative_to(tmp_path / "again")
        with open(f"{scenes_dir}/{relative}", "rb") as other:
            assert other.read() == there


def test_digits_hardly_overlap_and_stand_out():
    random, ones = np.random.default_rng(0), np.ones((8, 8), np.float32)
    for _ in range(20):
        pixels, objects = make_scene(random, [(ones, 3), (ones, 5), (ones, 7)], (64, 64))
        assert objects[0]["category_id"] == 10
        assert all(14 <= side <= 30 for each in objects for side in each["bbox"][2:])
        x, y, w, h = objects[0]["bbox"]
        assert pixels[y : y + h, x : x + w].mean() > 100
        covered = np.zeros((64, 64), int)
        for each in objects:
            x, y, w, h = each["bbox"]
            covered[y : y + h, x : x + w] += 1
        assert (covered > 1).sum() <= 0.05 * (covered > 0).sum()


def test_odd_images_are_there(scenes_dir):
    with open(f"{scenes_dir}/annotations/instances_test.json") as file:
        content = json.load(file)
    *_, other, crowd, empty = content["images"]
    by_image = [
        [each for each in content["annotations"] if each["image_id"] == image["id"]]
        for image in (other, crowd, empty)
    ]
    assert (other["height"], other["width"]) == (48, 56)
    with Image.open(f"{scenes_dir}/test/{other['file_name']}") as image:
        assert image.size == (56, 48)
    assert [each["iscrowd"] for each in by_image[1]] == [1]
    assert by_image[2] == []
    kinds = {type(each["segmentation"]) for each in content["annotations"]}
    assert kinds == {list, dict}


def test_scenes_are_prepared_once_and_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SPLITS, "train", 4)
    monkeypatch.setitem(SPLITS, "test", 4)
    name = "--name=aggnets_digit_scenes"
    assert main(["prepare-data", name, f"--data_dir={tmp_path / 'data'}"]) == 0
    flags = f"--config.data.name=aggnets_digit_scenes --data_dir={tmp_path / 'data'}"
    assert f"use it with --config.task=detection {flags}\n" in capsys.readouterr().out
    folder = prepare_scenes(str(tmp_path / "data"))
    assert folder == tmp_path / "data" / "aggnets_digit_scenes" / "1.0.0"
    file = folder / "annotations" / "instances_test.json"
    file.write_text("kept")
    assert prepare_scenes(str(tmp_path / "data")) == folder
    assert file.read_text() == "kept"
    assert [each.name for each in folder.parent.iterdir()] == ["1.0.0"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file/aggnets_digit_scenes"):
        prepare_scenes(str(tmp_path / "file"))


@pytest.mark.parametrize("flag", ["--manual_dir=d", "--file_format=tfrecord"])
def test_flags_of_tfdss_sets_are_refused(flag, tmp_path, capsys):
    arguments = ["--name=aggnets_digit_scenes", f"--data_dir={tmp_path}", flag]
    assert main(["prepare-data", *arguments]) == 2
    assert f"{flag.partition('=')[0]} is for TFDS's data sets" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_scenes_are_not_prepared_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/tfds")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^gs://bucket/tfds/aggnets_digit_scenes/1\.0\.0 is in a"):
        prepare_scenes(None)
    assert not [*tmp_path.iterdir()]


def test_processes_of_the_same_number_do_not_meet(tmp_path, monkeypatch):
    """On hosts that share a disk, the processes in containers all have the number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    barrier = threading.Barrier(2)

    def write(folder, numbers):
        folder.mkdir(parents=True)
        (folder / "file").write_text("whole")
        barrier.wait(timeout=5)

    monkeypatch.setattr(scenes, "write_scenes", write)
    with ThreadPoolExecutor(2) as pool:
        made = [*pool.map(prepare_scenes, [str(tmp_path)] * 2)]
    assert made == [tmp_path / "aggnets_digit_scenes" / "1.0.0"] * 2
    assert [file.name for file in made[0].iterdir()] == ["file"]
    assert [*made[0].parent.iterdir()] == made[:1]


def test_an_interrupted_start_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder, numbers):
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "write_scenes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_scenes(str(tmp_path))
    assert not [*(tmp_path / "aggnets_digit_scenes").iterdir()]
