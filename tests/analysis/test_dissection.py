"""Dissection against figures of independent code, on a set in Broden's format; and the command.

`pytest tests/analysis/test_dissection.py --golden=FOLDER` runs `dissection_*.json` of a folder.
"""

import csv
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from aggnets_jax.analysis import dissection
from aggnets_jax.analysis.broden import open_broden
from aggnets_jax.analysis.units import dissect, unique_detectors
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.runtime.mesh import make_mesh
from tests.marks import mostly_slow

FOLDER = Path(__file__).parents[1] / "golden" / "detection"


def write_labels(file, labels):
    """Write a map of labels as Broden's pictures."""
    pixels = np.stack([labels % 256, labels // 256, 0 * labels], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(file)


def write_table(file, rows):
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_broden(folder, images, records, labels):
    """Write images and their labels: arrays are maps, numbers label whole images, 0 is none."""
    (folder / "images").mkdir()
    size = images[0].shape[:2]
    rows = []
    for number, (image, record) in enumerate(zip(images, records, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        row = {"image": f"{number}.png", "split": "train"}
        row |= dict(zip(("ih", "iw", "sh", "sw"), (*size, *size), strict=True))
        for category, value in record.items():
            if np.ndim(value):
                entry = f"{number}_{category}.png"
                write_labels(folder / "images" / entry, value)
            else:
                entry = str(value) if value else ""
            row[category] = entry
        rows.append(row)
    write_table(folder / "index.csv", rows)
    named = [
        {"number": label, "name": f"label {label}", "category": f"{category}(1)"}
        for category, numbers in labels.items()
        for label in numbers
    ]
    write_table(folder / "label.csv", named)
    for category, numbers in labels.items():
        rows = [
            {"code": code, "number": label, "name": f"label {label}", "coverage": 0.1}
            for code, label in enumerate(numbers)
        ]
        write_table(folder / f"c_{category}.csv", rows)


def pytest_generate_tests(metafunc):
    if "golden" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("golden") or FOLDER)
        files = sorted(folder.glob("dissection_*.json"))
        metafunc.parametrize("golden", files, ids=[file.stem for file in files], indirect=True)


@pytest.fixture
def golden(request, tmp_path):
    """Figures, their set in Broden's format, and their features as a function of images."""
    figures = json.loads(request.param.read_text())
    given = figures["input"]
    features = jnp.asarray(np.moveaxis(np.float64(given["features"]), 1, -1))
    size, count = given["size"], given["images"]
    # A picture says its number.
    images = [np.full((size, size, 3), number, np.uint8) for number in range(count)]
    digits = [
        {
            name: value or 0
            if not isinstance(value, list)
            else np.array([[int(digit, 16) for digit in row] for row in value])
            for name, value in record.items()
        }
        for record in given["records"]
    ]
    write_broden(tmp_path, images, digits, given["labels"])
    broden = open_broden(tmp_path, given["categories"])
    return figures, broden, lambda images: features[images[:, 0, 0, 0].astype(jnp.int32)]


@pytest.mark.parametrize("batch_size", [16, 60])
def test_figures(golden, batch_size):
    figures, broden, features = golden
    given, expected = figures["input"], figures["output"]
    options = {"batch_size": batch_size, "quantile": given["quantile"]}
    found = dissect(features, broden, make_mesh(), **options)
    np.testing.assert_allclose(found.thresholds, expected["thresholds"], rtol=1e-6)
    np.testing.assert_array_equal(found.tally.unit, expected["pixels"])
    labels = len(expected["label_pixels"])
    np.testing.assert_array_equal(found.tally.label[:labels], expected["label_pixels"])
    np.testing.assert_allclose(found.iou[:, :labels], expected["iou"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.scores, expected["score"], rtol=1e-6)
    assert found.labels.tolist() == expected["best_label"]
    assert [broden.categories[broden.primary[label]] for label in found.labels] == expected[
        "best_category"
    ]
    assert unique_detectors(found, broden, given["iou"]) == expected["unique"]

    pooled = lambda images: features(images).mean(axis=(1, 2), keepdims=True)  # noqa: E731
    found = dissect(pooled, broden, make_mesh(), **options)
    expected = expected["with_features_averaged_to_1x1"]
    np.testing.assert_allclose(found.scores, expected["score"], rtol=1e-6)
    assert unique_detectors(found, broden, given["iou"]) == expected["unique"]


@pytest.fixture
def small_set(tmp_path):
    """Ten images of 8x8 with three labels, in Broden's format."""
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (10, 8, 8, 3), np.uint8))
    records = [
        {"object": random.integers(0, 3, (8, 8)), "scene": 3 * (number % 2)} for number in range(10)
    ]
    folder = tmp_path / "broden"
    folder.mkdir()
    write_broden(folder, images, records, {"object": [1, 2], "scene": [3]})
    return folder


@mostly_slow("layer", ["pre_logits_2d", "pooled"], quick=(0,))
def test_command(finished_run, small_set, tmp_path, layer, capsys):
    flags = [f"--data_dir={small_set}", "--categories=object,scene", f"--layer={layer}"]
    flags += ["--batch_size=4", "--quantile=0.9", "--units=2", f"--output={tmp_path / 'out'}"]
    assert main(["analyse", "dissection", f"--workdir={finished_run}", *flags]) == 0
    assert "unique detectors" in capsys.readouterr().out
    table = list(csv.DictReader((tmp_path / "out" / "dissection.csv").read_text().splitlines()))
    assert {row["category"] for row in table} <= {"object", "scene"}
    counts = json.loads((tmp_path / "out" / "dissection.json").read_text())["unique"]
    detected = {row["label"] for row in table if float(row["iou"]) >= 0.04}
    assert sum(counts.values()) == len(detected) > 0
    for picture in ("dissection.png", "dissection_units.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 1000


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--categories=objects", "'objects'"),
        ("--layer=last", "'last'"),
        ("--normalisation=paper", "grey"),
        ("--quantile=1", "--quantile must be between 0 and 1, not 1.0"),
        ("--iou=2", "--iou must be between 0 and 1, not 2.0"),
        ("--batch_size=0", "--batch_size must be one of "),
        ("--beside=elsewhere", "dissection.json is missing"),
    ],
)
def test_wrong_flags_are_one_line(finished_run, small_set, tmp_path, flag, message, capsys):
    given = [f"--workdir={finished_run}", f"--data_dir={small_set}", f"--output={tmp_path / 'o'}"]
    given += ["--categories=object,scene", flag]
    assert main(["analyse", "dissection", *given]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_channel_that_is_nowhere_on_has_no_label(small_set):
    broden = open_broden(small_set, ["object", "scene"])

    def constant(images):
        return jnp.zeros((len(images), 4, 4, 1))

    found = dissect(constant, broden, make_mesh(), batch_size=4)
    (record,) = dissection.unit_records(found, broden)
    assert (record["label"], record["category"], record["iou"]) == ("", "", 0)


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("index.csv", "8,8", "8,x"),
        ("label.csv", "\n1,", "\none,"),
        ("c_scene.csv", "0.1", ""),
    ],
)
def test_tables_without_numbers_are_damaged(small_set, table, old, new):
    text = (small_set / table).read_text()
    (small_set / table).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=f"{table} is damaged"):
        open_broden(small_set, ["object", "scene"])


@pytest.mark.parametrize("damage", ["missing", "empty", "size", "label"])
def test_damaged_sets_name_the_file(small_set, damage):
    picture = small_set / "images" / "7_object.png"
    if damage == "missing":
        picture.unlink()
    elif damage == "empty":
        picture.write_bytes(b"")
    else:
        write_labels(picture, np.full((8, 8) if damage == "label" else (4, 4), 700))
    broden = open_broden(small_set, ["object", "scene"])
    with pytest.raises(UserError, match="label" if damage == "label" else "7_object"):
        list(broden.batches(4))


@pytest.mark.parametrize(("listed", "coverage"), [(("part", "object"), 0.1), (("part",), 0.0)])
def test_a_label_counts_in_its_category_wherever_it_is_drawn(tmp_path, listed, coverage):
    """It is drawn as a part, and an object by its coverage; or it is so rare that it has 0."""
    images = [np.full((8, 8, 3), value, np.uint8) for value in (0, 0, 200)]
    drawn = np.zeros((8, 8), int)
    drawn[2:4, :4] = 1
    records = [{"object": 0, "part": 0}, {"object": 2, "part": 0}, {"object": 0, "part": drawn}]
    write_broden(tmp_path, images, records, {"object": [2], "part": [1]})
    for category in listed:
        share = 0.3 if category == "object" else coverage
        with (tmp_path / f"c_{category}.csv").open("a") as table:
            table.write(f"9,1,label 1,{share}\r\n")
    if "object" not in listed:
        text = (tmp_path / "c_part.csv").read_text()
        (tmp_path / "c_part.csv").write_text(text.replace("label 1,0.1", "label 1,0.0"))

    def six_of_its_eight_pixels(images):
        bright = images[..., :1].astype(jnp.float32) / 200
        return bright * jnp.zeros((8, 8, 1)).at[2:4, :3].set(1)

    broden = open_broden(tmp_path, ["object", "part"])
    assert broden.categories[broden.primary[1]] == listed[-1]
    found = dissect(six_of_its_eight_pixels, broden, make_mesh(), batch_size=3, quantile=0.9)
    assert (found.labels.tolist(), found.scores.tolist()) == ([1], [6 / 8])


def test_activations_that_are_not_finite_are_an_error(small_set):
    broden = open_broden(small_set, ["object", "scene"])

    def broken(images):
        return jnp.log(-1.0 - images[..., :1].astype(jnp.float32))

    with pytest.raises(UserError, match="activations that are not finite"):
        dissect(broken, broden, make_mesh(), batch_size=4)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("index.csv", "8,8", "8,0", "must be at least 1"),
        ("c_scene.csv", "0.1", "nan", "coverage nan of label 3"),
        ("c_scene.csv", "0.1", "-1", "coverage -1.0 of label 3"),
    ],
)
def test_numbers_that_tables_can_not_have(small_set, table, old, new, message):
    text = (small_set / table).read_text()
    (small_set / table).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        open_broden(small_set, ["object", "scene"])


def test_spaces_between_entries_do_not_matter(small_set):
    text = (small_set / "index.csv").read_text()
    (small_set / "index.csv").write_text(text.replace(".png,3", ".png, 3 ; 3"))
    whole = open_broden(small_set, ["object", "scene"]).read([1]).whole
    assert whole.tolist() == [[3, 3]]


def test_a_category_counts_once(small_set):
    once, twice = (open_broden(small_set, ["object", "scene", *more]) for more in ([], ["object"]))
    assert once.categories == twice.categories == ("object", "scene")


def test_a_negative_label_is_refused(small_set):
    text = (small_set / "label.csv").read_text()
    (small_set / "label.csv").write_text(text.replace("\n1,", "\n-1,", 1))
    with pytest.raises(UserError, match=r"label.csv has the number -1; the least is 0"):
        open_broden(small_set, ["object", "scene"])


@pytest.mark.parametrize("unique", ["[1]", '{"object": "many"}', "{"])
def test_damaged_counts_beside_are_told(finished_run, small_set, tmp_path, unique, capsys):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "dissection.json").write_text(f'{{"unique": {unique}}}')
    flags = [f"--data_dir={small_set}", "--categories=object,scene", f"--beside={tmp_path}"]
    arguments = [f"--workdir={finished_run}", *flags, f"--output={tmp_path / 'out'}"]
    assert main(["analyse", "dissection", *arguments]) == 2
    assert "dissection.json is missing or damaged" in capsys.readouterr().err
