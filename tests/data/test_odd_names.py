"""Odd names of data folders, splits and classes."""

import os
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data import describe, eval_batches, train_batches
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config
from tests.data.test_batches import join, take
from tests.marks import mostly_slow
from tests.patterns import one_line_error

NAMES = [
    *("a b", " a ", "a.b", "..a", "-a", "--config=a", "~", "~a", "$HOME", "%20", "%s", "{a}", "a]"),
    *("a'b", 'a"b', "`a`", "a;b", "a&b", "a|b", "a,b", "a=b", "a#b", "a@b", "a!b", "a^b", "(a)"),
    *("run[1]", "[ab]", "a*", "a**b", "a?", "a\\b", "a:b", "gs:", "<a>", "x" * 200, "3.tmp", "con"),
    *("ünïcødé", "e\u0301", "日本語", "\U0001f600"),
]
FAST = ("run[1]", "日本語")
ROOTS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def make_folder(root, splits=("train", "test"), classes=("one", "two")):
    for split in splits:
        for number, name in enumerate(classes):
            folder = Path(root) / split / name
            folder.mkdir(parents=True)
            image = Image.fromarray(np.full((8, 8, 3), number, np.uint8))
            image.save(folder / f"{number}.png")
    return root


def read_shades(root, sharding, **changes):
    """Return the shade of each class's images, as training and evaluation read them."""
    config = make_config("image_folder", root, image_size=8, crop_padding=0, **changes)
    info = describe(config)
    training = train_batches(config, batch_size=info.num_train, seed=0, sharding=sharding)
    shades = []
    for batches in (training, eval_batches(config, batch_size=256, sharding=sharding)):
        (batch,) = take(batches, 1)
        pairs = zip(batch["label"].tolist(), batch["image"].max((1, 2, 3)).tolist(), strict=True)
        shades.append({info.class_names[label]: shade for label, shade in pairs})
    assert shades[0] == shades[1]
    return shades[0]


@pytest.mark.parametrize("name", ROOTS)
def test_folders_of_images(name, tmp_path, sharding):
    make_folder(tmp_path / name)
    assert read_shades(tmp_path / name, sharding) == {"one": 0, "two": 1}


def test_names_of_classes(tmp_path, sharding):
    names = [name for name in NAMES if not name.startswith(".")]  # those are hidden
    make_folder(tmp_path, classes=names)
    composed = [unicodedata.normalize("NFC", name) for name in names]
    assert read_shades(tmp_path, sharding) == {name: k for k, name in enumerate(composed)}


def test_accents_of_macos_are_the_same_class(tmp_path):
    """Accents are stored with the letter, or after it as macOS does."""
    for split, form in (("train", "NFD"), ("test", "NFC")):
        make_folder(tmp_path, (split,), [unicodedata.normalize(form, n) for n in ("rosé", "ß")])
    info = describe(make_config("image_folder", tmp_path, image_size=8))
    assert info.class_names == ("rosé", "ß")
    assert info.num_train == info.num_eval == 2


def test_names_of_files_that_are_no_utf8(tmp_path, sharding, capfd):
    make_folder(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "one" / "0.png").rename(tmp_path / split / "one" / "caf\udce9.png")
    assert read_shades(tmp_path, sharding) == {"one": 0, "two": 1}
    (tmp_path / "test" / "one" / "caf\udce9.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=re.escape("caf\udce9.png is damaged")):
        read_shades(tmp_path, sharding)
    config = make_config("image_folder", tmp_path, image_size=8, damaged="skip")
    take(eval_batches(config, batch_size=2, sharding=sharding), 1)
    assert "skipped: " in capfd.readouterr().err


@pytest.mark.parametrize("name", ["caf\udce9", "a\nb", "\x1b[31m"])
def test_names_of_classes_that_cannot_be_printed_are_told(name, tmp_path):
    make_folder(tmp_path, classes=("one", name))
    with pytest.raises(UserError, match="has no name that can be printed") as error:
        describe(make_config("image_folder", tmp_path, image_size=8))
    assert str(error.value).isascii()


@mostly_slow("name", ["my train", "train-é", "a,b", "(a)"], quick=(2,))
def test_names_of_splits(name, tmp_path, sharding):
    make_folder(tmp_path, splits=(name, "other"))
    shades = read_shades(tmp_path, sharding, train_split=name, eval_split="other")
    assert shades == {"one": 0, "two": 1}


@pytest.mark.parametrize("name", ["train[1]", "a+b", "..", "a/b", ""])
def test_names_that_are_no_splits_are_told(name, tmp_path):
    make_folder(tmp_path)
    with pytest.raises(UserError) as error:
        describe(make_config("image_folder", tmp_path, image_size=8, train_split=name))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_forms_of_a_path(tmp_path, sharding):
    make_folder(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for form in ("data/", "link", "link/", "./data//", "link/../data"):
        assert read_shades(f"{tmp_path}/{form}", sharding) == {"one": 0, "two": 1}


@pytest.mark.parametrize("name", ROOTS)
def test_folders_of_prepared_data(name, data_dir, tmp_path, sharding):
    shutil.copytree(data_dir, tmp_path / name)
    config = make_config("aggnets_digits", tmp_path / name)
    assert describe(config).num_train == 1437
    seen = join(take(eval_batches(config, batch_size=360, sharding=sharding), 2))
    assert seen["mask"].sum() == 360


def test_a_pipe_is_told_and_not_waited_for(tmp_path):
    pipe = make_folder(tmp_path) / "train" / "one" / "x.png"
    os.mkfifo(pipe)
    config = make_config("image_folder", tmp_path, image_size=8, crop_padding=0)
    assert one_line_error(describe, config) == f"{pipe} is no file but a pipe or device"
