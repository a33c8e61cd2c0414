"""Prediction: the same as the evaluation, on files, and reported in three ways."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data import DatasetInfo
from aggnets_jax.data.decoding import FORMATS
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.main import main
from aggnets_jax.predict import Prediction, find_images, predict, report_predictions
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.data.image_folders import COLOURS, make_image_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of images, workdir) of a run of 8 steps that has learnt something, and not all."""
    folder = tmp_path_factory.mktemp("predict")
    images = make_image_folder(folder / "images", {"train": 8, "test": 5})
    shutil.copy(images / "test" / "red" / "0.jpg", images / "test" / "blue" / "no blue.jpg")
    config = runs.tiny_config(str(images), total_steps=8, eval_every_steps=8, batch_size=12)
    config["data"] |= {"name": "image_folder", "image_size": 16}
    workdir = folder / "run"
    train_and_evaluate(config, workdir)
    return images, workdir


@pytest.fixture(scope="module")
def digits_in_batches(data_dir, tmp_path_factory):
    """Workdir of a run on grey images of 8x8, which are evaluated in batches of 40."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    train_and_evaluate(
        runs.tiny_config(data_dir, total_steps=4, lr=0.2, eval_batch_size=40), workdir
    )
    return workdir


def test_accuracy_is_that_of_the_evaluation(trained, capsys):
    images, workdir = trained
    evaluated = evaluate_checkpoint(workdir)
    predictions = predict(workdir, [images / "test"])
    assert len(predictions) == evaluated["examples"] == 16
    right = [p.image.split("/")[-2] == p.classes[0] for p in predictions]
    assert sum(right) / 16 == evaluated["accuracy"]
    assert evaluated["accuracy"] not in (0, 1)
    losses = [
        -np.log(p.probabilities[p.classes.index(p.image.split("/")[-2])]) for p in predictions
    ]
    assert np.isclose(np.mean(losses), evaluated["loss"], rtol=1e-5)


def test_probabilities_descend_and_sum_to_one(trained):
    images, workdir = trained
    for prediction in predict(workdir, [images / "test"]):
        assert sorted(prediction.classes) == sorted(COLOURS)
        assert sorted(prediction.probabilities, reverse=True) == list(prediction.probabilities)
        assert np.isclose(sum(prediction.probabilities), 1)


def test_a_prediction_does_not_depend_on_the_other_images(trained):
    images, workdir = trained
    together = predict(workdir, [images / "test"], top=2)
    last = together[-1]
    (alone,) = predict(workdir, [last.image], top=2)
    assert alone.classes == last.classes
    assert np.allclose(alone.probabilities, last.probabilities, rtol=1e-5)


@pytest.mark.slow
def test_batches_are_padded(digits_in_batches, data_dir, tmp_path):
    """The digits' own test images, as files, in several batches of which the last is not full."""
    import tensorflow_datasets as tfds

    examples = tfds.load("aggnets_digits", data_dir=data_dir, split="test[:50]")
    labels = []
    for number, example in enumerate(examples.as_numpy_iterator()):
        labels.append(str(example["label"]))
        Image.fromarray(example["image"][..., 0]).save(tmp_path / f"{number:02}.png")
    predictions = predict(digits_in_batches, [tmp_path], top=1)
    assert [p.image for p in predictions] == [str(tmp_path / f"{k:02}.png") for k in range(50)]

    mesh = mesh_lib.make_mesh()
    restored = restore_network(digits_in_batches, "latest", mesh_lib.replicated(mesh))
    images = np.stack(
        [np.asarray(Image.open(tmp_path / f"{k:02}.png"))[..., None] for k in range(50)]
    )
    info = restored.info
    logits, _ = restored.model.apply(
        restored.variables, (images / 255 - info.mean) / info.std, train=False
    )
    expected = np.asarray(jax.nn.softmax(logits))
    assert [p.classes[0] for p in predictions] == [str(k) for k in expected.argmax(-1)]
    assert np.allclose([p.probabilities[0] for p in predictions], expected.max(-1), rtol=1e-4)


def test_images_of_another_size_and_of_colours_suit_a_grey_network(finished_run, tmp_path):
    """They are resized as PIL does it, whole."""
    values = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    small = Image.fromarray(values).resize((8, 8), Image.Resampling.BILINEAR)
    small.save(tmp_path / "small.png")
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / "large.png")
    large, small = predict(finished_run, [tmp_path], top=10)
    assert large.image.endswith("large.png")
    by_class = [dict(zip(p.classes, p.probabilities, strict=True)) for p in (large, small)]
    assert by_class[0] == pytest.approx(by_class[1], abs=0.01)


def test_files_are_found_in_folders_below_and_come_once(trained, tmp_path):
    images, workdir = trained
    (tmp_path / "below" / "further").mkdir(parents=True)
    for name in ("z.JPG", "below/b.jpeg", "below/further/a.jpg"):
        shutil.copy(images / "test" / "red" / "0.jpg", tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    given = [tmp_path / "z.JPG", tmp_path]
    files = [p.image.removeprefix(f"{tmp_path}/") for p in predict(workdir, given)]
    assert files == ["z.JPG", "below/b.jpeg", "below/further/a.jpg"]


def test_one_path_need_not_stand_in_a_list(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    both = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert find_images(tmp_path) == find_images(str(tmp_path)) == find_images([tmp_path]) == both
    assert find_images(both[1]) == both[1:]
    with pytest.raises(UserError, match="predict needs one image at least"):
        find_images([])
    with pytest.raises(UserError, match=r"top must be a whole number of at least 1, got 2.5"):
        predict(tmp_path, both, top=2.5)


def test_neither_the_data_set_nor_its_directory_is_needed(trained, tmp_path):
    images, workdir = trained
    moved = tmp_path / "moved.jpg"
    shutil.copy(images / "test" / "red" / "0.jpg", moved)
    aside = images.rename(tmp_path / "aside")
    try:
        (prediction,) = predict(workdir, [moved], which="best")
        with pytest.raises(UserError, match="does not exist"):
            evaluate_checkpoint(workdir)
    finally:
        aside.rename(images)
    assert set(prediction.classes) == set(COLOURS)


def test_the_checkpoint_has_the_names_of_the_classes(trained):
    _, workdir = trained
    with Checkpoints(workdir) as checkpoints:
        for which in ("latest", "best"):
            info = checkpoints.restore_dataset(*checkpoints.find(which))
            assert isinstance(info, DatasetInfo)
            assert info.class_names == tuple(sorted(COLOURS))
            assert info.image_shape == (16, 16, 3)
            assert hash(info)  # tuples, as JSON has none


def test_other_classes_are_not_evaluated(trained, tmp_path):
    _, workdir = trained
    other = make_image_folder(tmp_path, {"train": 1, "test": 1}, classes=("red", "green"))
    (other / "train" / "red").rename(other / "train" / "rose")
    (other / "test" / "red").rename(other / "test" / "rose")
    with pytest.raises(UserError, match="new are rose; missing are blue, red"):
        evaluate_checkpoint(workdir, data_dir=str(other))


def test_a_run_does_not_go_on_with_another_data_set(trained, tmp_path):
    images, workdir = trained
    config = json.loads((workdir / "config.json").read_text())
    copy = shutil.copytree(images, tmp_path / "copy")
    config["data"]["data_dir"] = str(copy)
    assert train_and_evaluate(config, workdir)["steps"] == 8
    (copy / "train" / "red" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"image_folder has changed .*num_train"):
        train_and_evaluate(config, workdir)


PREDICTIONS = [
    Prediction("a, [b].jpg", ("grün", "[red]"), (0.75, 0.125)),
    Prediction("c.jpg", ("[red]", "grün"), (0.5, 0.25)),
]


def test_csv_has_a_row_for_each_class_of_each_image(tmp_path, capsys):
    report_predictions(PREDICTIONS, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[1] == {
        "image": "a, [b].jpg",
        "rank": "2",
        "class": "[red]",
        "probability": "0.125",
    }
    assert [float(row["probability"]) for row in rows] == [0.75, 0.125, 0.5, 0.25]
    report_predictions(PREDICTIONS, "csv", tmp_path / "out.csv")
    assert list(csv.DictReader((tmp_path / "out.csv").open())) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_json_has_an_object_for_each_image(tmp_path, capsys):
    report_predictions(PREDICTIONS, "json")
    value = json.loads(capsys.readouterr().out)
    assert [Prediction(v["image"], *unzip(v["predictions"])) for v in value] == PREDICTIONS
    (tmp_path / "out.json").write_text("old")
    report_predictions(PREDICTIONS, "json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == value


def unzip(classes):
    names, probabilities = zip(*((c["class"], c["probability"]) for c in classes), strict=True)
    return names, probabilities


def test_the_table_has_names_and_percents(tmp_path, capsys):
    report_predictions(PREDICTIONS)
    out = capsys.readouterr().out
    for text in ("a, [b].jpg", "[red]", "grün", "75.00%", "12.50%"):
        assert text in out
    report_predictions(PREDICTIONS, "table", tmp_path / "out.txt")
    assert "75.00%" in (tmp_path / "out.txt").read_text()


@pytest.mark.slow
def test_the_command_line(trained):
    images, workdir = trained
    files = [images / "test" / "red" / "0.jpg", images / "test" / "green"]
    process = runs.start(
        "predict",
        f"--workdir={workdir}",
        *(f"--images={file}" for file in files),
        "--checkpoint=best",
        "--top=2",
        "--format=json",
        devices=4,
    )
    code, out, err = runs.finish(process)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [Prediction(v["image"], *unzip(v["predictions"])).classes for v in found] == [
        p.classes for p in predict(workdir, files, which="best", top=2)
    ]


@pytest.mark.slow
def test_a_damaged_file_is_one_line_and_exit_code_2(trained, tmp_path):
    images, workdir = trained
    for k in range(3):
        shutil.copy(images / "test" / "red" / f"{k}.jpg", tmp_path)
    file = tmp_path / "1.jpg"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    process = runs.start("predict", f"--workdir={workdir}", f"--images={tmp_path}")
    code, out, err = runs.finish(process)
    assert (code, out) == (2, "")
    assert err == f"error: {file} is damaged, or no {FORMATS}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--images=EMPTY"],
            "no images (.bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp) in EMPTY",
        ),
        (["--images=EMPTY/none.jpg"], "no file or folder EMPTY/none.jpg"),
        ([], "the following arguments are required: --images"),
        (["--images="], "--images is empty"),
        (["--images=IMAGES", "--top=0"], "top must be a whole number of at least 1, got 0"),
        (["--images=IMAGES", "--top=some"], "invalid int value"),
        (["--images=IMAGES", "--format=xml"], "unknown format 'xml'; allowed: csv, json, table"),
        (["--images=IMAGES", "--output=EMPTY"], "EMPTY must be a file in an existing folder"),
        (["--images=IMAGES", "--output=EMPTY/a/b.csv"], "must be a file in an existing folder"),
        (["--images=IMAGES", "--checkpoint=3"], "no checkpoint '3'"),
        (["--images=IMAGES", "--data_dir=IMAGES"], "--data_dir is for aggnets train, aggnets eval"),
    ],
)
def test_bad_input_is_one_line(trained, tmp_path, capsys, arguments, message):
    images, workdir = trained
    places = {"EMPTY": str(tmp_path), "IMAGES": str(images)}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
        message = message.replace(name, place)
    assert main(["predict", f"--workdir={workdir}", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_of_several_seeds_one_must_be_chosen(finished_run, tmp_path, monkeypatch):
    mesh = mesh_lib.make_mesh()
    restored = restore_network(finished_run, "latest", mesh_lib.replicated(mesh))
    restored.config.num_seeds = 2
    monkeypatch.setattr("aggnets_jax.predict.restore_network", lambda *_, **__: restored)
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="choose one by --seed: 0, 1"):
        predict(finished_run, [tmp_path / "black.png"])
