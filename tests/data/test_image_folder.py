"""Folders of images: what is in them, in which order it comes, and what is refused."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from aggnets_jax.data import describe, eval_batches, file_batches, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.host_pipeline import train_dataset
from aggnets_jax.data.image_folder import list_examples
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.predict import find_images
from tests.data.conftest import make_config
from tests.data.image_folders import COLOURS, make_image_folder
from tests.data.test_batches import join, take
from tests.marks import mostly_slow

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
    assert (info.resized, info.resident) == (True, False)


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


@pytest.mark.slow
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


@mostly_slow(
    ("form", "mode"),
    [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "I;16")]
    + [("GIF", mode) for mode in ("L", "P")]
    + [("BMP", mode) for mode in ("RGB", "L", "P", "RGBA")]
    + [("TIFF", mode) for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16")]
    + [("WEBP", mode) for mode in ("RGB", "RGBA")],
    quick=(0, 2, 5, 8, 10, 14, 20, 22),
)
def test_images_of_all_kinds_get_three_channels(colours, tmp_path, sharding, form, mode):
    y, x = np.mgrid[:SIZE, :SIZE]
    image = Image.fromarray(np.stack([10 * x, 10 * y, 0 * x + 90], axis=-1).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((10 * x * 257).astype(np.uint16))
    else:
        image = image.convert(mode)
    file = tmp_path / f"image.{form.lower()}"
    best = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    image.save(file, form, **best.get(form, {}))
    info = dataclasses.replace(describe(config_of(colours)), resized=False)
    (batch,) = take(file_batches([str(file)], info, batch_size=1, sharding=sharding), 2)
    expected = np.asarray(image.convert("RGB")).astype(int)
    if mode == "I;16":
        expected = np.repeat(10 * x[..., None], 3, axis=-1)
    assert np.abs(batch["image"][0].astype(int) - expected).max() <= 4


def test_images_come_upright_wherever_they_are_read(tmp_path, sharding):
    """In training, evaluation and prediction alike, as from PIL."""
    quarters = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 250)]], np.uint8)
    image = Image.fromarray(quarters.repeat(30, 0).repeat(20, 1))
    for form, orientation in itertools.product(("JPEG", "PNG", "TIFF", "WEBP"), range(1, 9)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        folder = tmp_path / "train" / f"class{orientation % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{orientation}.{form.lower()}", form, exif=exif)
    config = config_of(tmp_path, eval_split="train")
    files, _ = examples(tmp_path, "train")
    expected = []
    for file in files:
        upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        expected.append(upright[5:-5:][:, 5:-5][[0, 0, -1, -1], [0, -1, 0, -1]].astype(int))

    def of_expected_corners(images, expected):
        corners = images[:, [1, 1, -2, -2], [1, -2, 1, -2]].astype(int)
        return np.abs(corners - expected).max((1, 2)) < 60

    (evaluated,) = take(eval_batches(config, batch_size=32, sharding=sharding), 2)
    assert of_expected_corners(evaluated["image"], expected).all()
    batches = file_batches(list(files), describe(config), batch_size=32, sharding=sharding)
    assert np.array_equal(take(batches, 2)[0]["image"], evaluated["image"])
    trained = join(take(train_batches(config, batch_size=32, seed=0, sharding=sharding), 12))
    expected = np.array(expected)[trained["index"]]
    seen = trained["index"][of_expected_corners(trained["image"], expected)]
    assert np.bincount(seen, minlength=32).min() > 0  # a crop that has the centre


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


def test_hidden_files_and_folders_are_no_data(colours, tmp_path):
    shutil.copytree(colours, tmp_path / "a", dirs_exist_ok=True)
    image = tmp_path / "a" / "train" / "red" / "0.jpg"
    for hidden in (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"):
        for place in ("", "train/", "train/red/", "test/"):
            folder = tmp_path / "a" / f"{place}{hidden}"
            folder.mkdir()
            shutil.copy(image, folder / "0.jpg")
    shutil.copy(image, tmp_path / "a" / "train" / "red" / "._x.jpg")
    shutil.copy(image, tmp_path / "a" / "train" / "red" / ".DS_Store")
    shutil.copy(image, tmp_path / "a" / "Thumbs.db")
    info = describe(config_of(tmp_path / "a"))
    assert info.class_names == tuple(sorted(COLOURS))
    assert (info.num_train, info.num_eval) == (24, 9)
    order = examples(colours, "train", info.class_names)[0]
    names = [file.replace(str(colours), str(tmp_path / "a")) for file in order]
    assert examples(tmp_path / "a", "train", info.class_names)[0].tolist() == names
    assert sorted(find_images([tmp_path / "a" / "train"])) == sorted(names)


def test_classes_have_the_images_of_folders_below(shades, tmp_path):
    shutil.copytree(shades, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "train" / "class1"
    (folder / "more" / "again").mkdir(parents=True)
    (folder / "1.png").rename(folder / "more" / "again" / "1.png")
    (folder / "more" / "round").symlink_to(folder)
    (folder / "more" / "rounder").symlink_to(folder.parent)
    files, labels = examples(tmp_path, "train")
    numbers = [int(file.rpartition("/")[2].removesuffix(".png")) for file in files]
    assert sorted(numbers) == list(range(20))
    assert np.array_equal(labels, np.array(numbers) % 2)
    assert set(files) == set(find_images([tmp_path / "train"]))


def test_files_that_are_left_out_are_counted_in_one_line(colours, tmp_path, capsys):
    shutil.copytree(colours, tmp_path / "a", dirs_exist_ok=True)
    for name in ("red/x.heic", "red/below/y.HEIC", "blue/README", "z.jpg"):
        file = tmp_path / "a" / "train" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    for _ in range(2):
        describe(config_of(tmp_path / "a"))
    line = f"left out in {tmp_path}/a/train: 1 without an ending, 2 .heic, 1 .jpg\n"
    assert capsys.readouterr().err == line
    find_images([tmp_path / "a" / "train" / "red"])
    assert capsys.readouterr().err == f"left out in {tmp_path}/a/train/red: 2 .heic\n"


def test_images_of_every_ending_count_and_predict_alike(tmp_path, capsys):
    forms = {"jpg": "JPEG", "JPG": "JPEG", "Png": "PNG", "bmp": "BMP", "gif": "GIF"}
    forms |= {"webp": "WEBP", "tif": "TIFF", "TIFF": "TIFF"}
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for k, (ending, form) in enumerate(forms.items()):
                image = Image.fromarray(np.full((20, 20, 3), 20 * k, np.uint8))
                image.save(tmp_path / split / name / f"{k}.{ending}", form)
    info = describe(config_of(tmp_path))
    assert (info.num_train, info.num_eval) == (16, 16)
    assert len(find_images([tmp_path / "test"])) == 16
    assert capsys.readouterr().err == ""


MISTAKES = {
    no_class_in_train: "the splits of {folder} differ in their classes; only in 'test': 'red'",
    no_class_in_test: "the splits of {folder} differ in their classes; only in 'train': 'red'",
    an_empty_class: r"{folder}/train/yellow holds no images \(.bmp, .gif, ",
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
        ({"image_size": None}, "may vary in size: set config.data.image_size, such as 224"),
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
    config = config_of(make_image_folder(tmp_path, {"train": 3, "test": 3}))
    evaluation = eval_batches(config, batch_size=9, sharding=sharding)
    (tmp_path / "test" / "red" / "2.jpg").unlink()
    fails_with(r"test/red/2.jpg can't be read \(NotFoundError\)", lambda: list(evaluation))


def test_preparing_a_folder_is_not_needed(capsys):
    assert main(["prepare-data", "--name=image_folder"]) == 2
    assert "image_folder needs no preparation" in capsys.readouterr().err


def fails_with(message, call):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
