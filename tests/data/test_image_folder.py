"""Folders of images: what is in them, in which order it comes, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data import describe, eval_batches, file_batches, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.host_pipeline import train_dataset
from aggnets_jax.data.image_folder import list_examples
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from tests.data.conftest import make_config
from tests.data.image_folders import COLOURS, make_image_folder
from tests.data.test_batches import join, take

SIZE = 16


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """24 training and 9 test images in the colours of their classes."""
    return make_image_folder(tmp_path_factory.mktemp("colours"), {"train": 8, "test": 3})


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """20 training images of one shade each, which no crop and no resizing changes."""
    folder = tmp_path_factory.mktemp("shades")
    for k in range(20):
        image = Image.fromarray(np.full((20 + k, 40 - k, 3), 10 * k, np.uint8))
        for split in ("train", "val") if k in (3, 4) else ("train",):
            (folder / split / f"class{k % 2}").mkdir(parents=True, exist_ok=True)
            image.save(folder / split / f"class{k % 2}" / f"{k}.png")
    return folder


def config_of(folder, **changes):
    return make_config("image_folder", folder, image_size=SIZE, **changes)


def examples(folder, split, classes=("class0", "class1")):
    """Files and labels in reading order."""
    return list_examples(open_prepared("image_folder", str(folder)), split, classes)


def test_facts(colours):
    info = describe(config_of(colours))
    assert info.class_names == tuple(sorted(COLOURS))
    assert (info.num_classes, info.num_train, info.num_eval) == (3, 24, 9)
    assert (info.train_split, info.eval_split) == ("train", "test")
    assert info.image_shape == (SIZE, SIZE, 3)
    assert info.mean == (0.485, 0.456, 0.406)
    assert info.resized
    assert not info.resident


def test_folders_that_are_no_split_of_the_config_do_not_count(colours, tmp_path):
    shutil.copytree(colours, tmp_path, dirs_exist_ok=True)
    make_image_folder(tmp_path, {"test_unlabelled": 2}, classes=["red"])
    (tmp_path / "test_unlabelled" / "red").rename(tmp_path / "test_unlabelled" / "unknown")
    assert describe(config_of(tmp_path)).class_names == tuple(sorted(COLOURS))


def test_a_folder_val_is_for_evaluation(shades):
    info = describe(config_of(shades))
    assert (info.eval_split, info.num_eval) == ("val", 2)


def test_slices_divide_a_split(shades, sharding):
    config = config_of(shades, train_split="train[:80%]", eval_split="train[80%:]")
    info = describe(config)
    assert (info.num_train, info.num_eval, info.num_classes) == (16, 4, 2)
    training = join(take(train_batches(config, batch_size=8, seed=0, sharding=sharding), 2))
    evaluation = join(take(eval_batches(config, batch_size=4, sharding=sharding), 1))
    images = np.concatenate([training["image"], evaluation["image"]])
    assert np.array_equal(np.sort(images.max((1, 2, 3))), 10 * np.arange(20))
    assert len(set(evaluation["label"])) == 2  # slices are of a shuffled order


def test_evaluation_has_every_image_with_its_label(colours, sharding):
    config = config_of(colours)
    seen = join(take(eval_batches(config, batch_size=4, sharding=sharding), 10))
    assert np.array_equal(seen["mask"], np.arange(12) < 9)
    images, labels = seen["image"][seen["mask"]], seen["label"][seen["mask"]]
    assert np.array_equal(np.bincount(labels), [3, 3, 3])
    colour = np.array([COLOURS[name] for name in describe(config).class_names])
    assert np.abs(images.mean((1, 2)) - colour[labels]).max() < 20


@pytest.mark.parametrize("split", ["train", "train[5:]+train[:3]+val"])
def test_every_example_once_an_epoch_and_index_is_its_number(shades, sharding, split):
    files, labels = examples(shades, split)
    shade = np.array([10 * int(file.rpartition("/")[2].removesuffix(".png")) for file in files])
    batches = train_batches(
        config_of(shades, train_split=split), batch_size=6, seed=1, sharding=sharding
    )
    seen = join(take(batches, 10))
    assert np.array_equal(seen["epoch"], np.arange(60) // len(files))
    orders = [seen["index"][seen["epoch"] == epoch] for epoch in range(60 // len(files))]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(len(files)))
    assert len({tuple(order) for order in [*orders, range(len(files))]}) == len(orders) + 1
    assert (seen["image"] == shade[seen["index"], None, None, None]).all()
    assert np.array_equal(seen["label"], labels[seen["index"]])


def test_order_and_crops_depend_on_the_seed_only(colours, sharding):
    """And not on the size of batches, on where the run begins, or on which rows are read."""
    config = config_of(colours)

    def run(count, **changes):
        settings = {"batch_size": 6, "seed": 3, "sharding": sharding} | changes
        return join(take(train_batches(config, **settings), count))

    through = run(12)
    for other in (run(9, batch_size=8), run(3, batch_size=24)):
        for name, values in through.items():
            assert np.array_equal(values, other[name]), name
    resumed = run(5, start_step=7)
    for name, values in through.items():
        assert np.array_equal(values[42:], resumed[name]), name
    assert not np.array_equal(through["index"], run(12, seed=4)["index"])

    split = Split(open_prepared("image_folder", str(colours)), describe(config), "train")
    rows = np.array([1, 4, 5])
    batches = train_dataset(split, BatchRows(6, rows), seed=3, start_step=0)
    for step, batch in zip(range(12), batches, strict=False):
        for name, values in through.items():
            assert np.array_equal(values[6 * step + rows], batch[name]), name


def test_crops_differ_between_epochs(colours, sharding):
    seen = join(
        take(train_batches(config_of(colours), batch_size=24, seed=0, sharding=sharding), 2)
    )
    first, second = (seen["image"][:24], seen["image"][24:])
    second = second[np.argsort(seen["index"][24:])][seen["index"][:24]]
    assert (first != second).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "I;16")],
)
def test_images_of_all_kinds_get_three_channels(colours, tmp_path, sharding, form, mode):
    y, x = np.mgrid[:SIZE, :SIZE]
    image = Image.fromarray(np.stack([10 * x, 10 * y, 0 * x + 90], axis=-1).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((10 * x * 257).astype(np.uint16))
    else:
        image = image.convert(mode)
    file = tmp_path / f"image.{form.lower()}"
    image.save(file, form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    info = dataclasses.replace(describe(config_of(colours)), resized=False)
    (batch,) = take(file_batches([str(file)], info, batch_size=1, sharding=sharding), 2)
    expected = np.asarray(image.convert("RGB")).astype(int)
    if mode == "I;16":
        expected = np.repeat(10 * x[..., None], 3, axis=-1)
    assert np.abs(batch["image"][0].astype(int) - expected).max() <= 4


def test_grey_networks_get_one_channel(colours, tmp_path, sharding):
    Image.fromarray(np.full((9, 9, 3), (200, 100, 50), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(tmp_path / "grey.png")
    info = dataclasses.replace(
        describe(config_of(colours)), resized=False, image_shape=(8, 8, 1), mean=(0.5,), std=(0.5,)
    )
    files = [str(tmp_path / name) for name in ("colour.png", "grey.png")]
    (batch,) = take(file_batches(files, info, batch_size=2, sharding=sharding), 2)
    assert batch["image"].shape == (2, 8, 8, 1)
    luminance = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert np.abs(batch["image"].mean((1, 2, 3)) - [luminance, 77]).max() <= 8


def no_class_in_train(folder):
    shutil.rmtree(folder / "train" / "red")


def no_class_in_test(folder):
    shutil.rmtree(folder / "test" / "red")


def an_empty_class(folder):
    (folder / "train" / "yellow").mkdir()


def a_class_of_other_files(folder):
    for file in (folder / "test" / "red").iterdir():
        file.rename(file.with_suffix(".txt"))


def an_empty_split(folder):
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()


def no_split_for_evaluation(folder):
    (folder / "test").rename(folder / "trial")


def nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def no_folder(folder):
    shutil.rmtree(folder)


MISTAKES = {
    no_class_in_train: "the splits of {folder} differ in their classes; only in 'test': 'red'",
    no_class_in_test: "the splits of {folder} differ in their classes; only in 'train': 'red'",
    an_empty_class: r"{folder}/train/yellow holds no images \(.jpg, .jpeg, .png\)",
    a_class_of_other_files: "{folder}/test/red holds no images",
    an_empty_split: "split 'train' of image_folder cannot be read .*; its splits: test",
    no_split_for_evaluation: "set eval_split to one of train, trial",
    nothing: "data_dir {folder} holds no images: it needs train/CLASS/",
    no_folder: "data_dir {folder} does not exist",
}


@pytest.mark.parametrize("damage", MISTAKES, ids=lambda damage: damage.__name__)
def test_mistakes_are_one_line(tmp_path, damage):
    folder = make_image_folder(tmp_path / "images", {"train": 1, "test": 1})
    damage(folder)
    fails_with(MISTAKES[damage].format(folder=folder), lambda: describe(config_of(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": None}, "images of image_folder vary in size: set image_size"),
        ({"resident": "always"}, "images of one size"),
        ({"data_dir": None}, "image_folder needs data_dir"),
        ({"name": "image_foldr"}, "unknown data set 'image_foldr'; nearest: image_folder"),
        ({"train_split": "train[:0]"}, "is empty"),
        ({"train_split": "train[30:]"}, "'train.30:.' of image_folder cannot be read"),
        ({"train_split": "train["}, "'train.' of image_folder cannot be read"),
    ],
)
def test_mistakes_in_the_config_are_one_line(colours, changes, message):
    config = config_of(colours)
    config.update(changes)
    fails_with(message, lambda: describe(config))


def a_text(file):
    file.write_text("no image")


def half_a_file(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def an_empty_file(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [a_text, half_a_file, an_empty_file])
def test_a_file_that_is_no_image_is_named(tmp_path, sharding, damage):
    folder = make_image_folder(tmp_path, {"train": 3, "test": 3})
    for split in ("train", "test"):
        damage(folder / split / "green" / "1.jpg")
    config = config_of(folder)
    evaluation = eval_batches(config, batch_size=4, sharding=sharding)
    fails_with("test/green/1.jpg is damaged, or no JPEG", lambda: list(evaluation))
    if damage is not half_a_file:  # of which a crop may be whole

        def train():
            return take(train_batches(config, batch_size=4, seed=0, sharding=sharding), 3)

        fails_with("train/green/1.jpg is damaged, or no JPEG", train)


def test_a_file_that_is_gone_is_named(tmp_path, sharding):
    evaluation = eval_batches(
        config_of(make_image_folder(tmp_path, {"train": 3, "test": 3})),
        batch_size=9,
        sharding=sharding,
    )
    (tmp_path / "test" / "red" / "2.jpg").unlink()
    fails_with(r"test/red/2.jpg can't be read \(NotFoundError\)", lambda: list(evaluation))


def test_preparing_a_folder_is_not_needed(capsys):
    assert main(["prepare-data", "--name=image_folder"]) == 2
    assert "image_folder needs no preparation" in capsys.readouterr().err


def fails_with(message, call):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
