"""Data sets from elsewhere: the images and labels that were written, and what can be wrong."""

import itertools
import sys
import tarfile
from unittest import mock

import jax
import numpy as np
import pytest

from aggnets_jax.data import describe, eval_batches, train_batches
from aggnets_jax.data.array_records import ArrayRecords
from aggnets_jax.data.catalog import find_builder, open_prepared
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.examples import Joined
from aggnets_jax.data.host_pipeline import load_split, train_dataset
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.data.sources import npz
from aggnets_jax.data.sources.hf_dataset import open_folder
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config
from tests.data.foreign_sets import (
    CLASSES,
    WRITERS,
    hf_dataset,
    png,
    write_npz,
    write_webdataset,
)
from tests.data.official_formats import _write_tar
from tests.data.test_batches import join, pairs, take

FORMS = [
    pytest.param(form, marks=() if form in ("npz", "webdataset") else pytest.mark.slow)
    for form in WRITERS
]


@pytest.mark.parametrize("form", FORMS)
def test_images_and_labels_are_the_official_ones(form, cifar10, foreign_cifar10, sharding):
    config = foreign_cifar10(form)
    info = describe(config)
    assert info.image_shape == (32, 32, 3)
    assert (info.num_train, info.num_eval, info.eval_split) == (103, 50, "test")
    assert info.resident
    if form != "array_record":
        assert list(info.class_names) == CLASSES
    images, labels = load_split(Split(open_prepared(config.name, config.data_dir), info, "train"))
    assert pairs(images, labels) == pairs(*cifar10[1]["train"])
    if form != "array_record":  # for which TFDS shuffles
        assert np.array_equal(images, cifar10[1]["train"][0])
    seen = join([*map(jax.device_get, eval_batches(config, batch_size=16, sharding=sharding))])
    assert pairs(seen["image"][seen["mask"]], seen["label"][seen["mask"]]) == pairs(
        *cifar10[1]["test"]
    )


@pytest.mark.parametrize("form", FORMS)
def test_slices_and_the_place_in_reading_order(form, foreign_cifar10, sharding):
    split = "test[10:40]+train[60%:]"
    config = foreign_cifar10(form, resident="never", train_split=split)
    images, labels = load_split(
        Split(open_prepared(config.name, config.data_dir), describe(config), split)
    )
    assert len(labels) == 30 + 41
    seen = join(take(train_batches(config, batch_size=16, seed=2, sharding=sharding), 5))
    assert np.array_equal(seen["image"], images[seen["index"]])
    assert np.array_equal(seen["label"], labels[seen["index"]])


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_reads_nothing_again(form, foreign_cifar10, sharding):
    config = foreign_cifar10(form, resident="never")
    settings = {"batch_size": 8, "seed": 0, "sharding": sharding}
    before = join(take(train_batches(config, **settings), 2))["index"]
    examples = ArrayRecords if form == "array_record" else Joined
    read, reads = [], examples.read
    with mock.patch.object(examples, "read", lambda self, i: read.append(i) or reads(self, i)):
        (batch,) = take(train_batches(config, start_step=2, **settings), 1)
    assert {*batch["index"].tolist()} <= {*read}
    assert not {*before.tolist()} & {*read}
    assert np.ptp(batch["index"]) > 51  # all 103 are shuffled together


def test_damaged_images_are_named_or_skipped(cifar10, sharding, tmp_path, capfd):
    images, labels = cifar10[1]["train"]
    official = {"train": (images[:20], labels[:20]), "test": cifar10[1]["test"]}
    name, folder = write_webdataset(tmp_path, official, shards=1)
    damaged, image = tmp_path / "cifar-train-000000.tar", png(images[7])
    damaged.write_bytes(damaged.read_bytes().replace(image, bytes(len(image))))
    config = make_config(name, folder, resident="never")
    settings = {"batch_size": 20, "seed": 0, "sharding": sharding}
    message = f"a/00007 in {damaged} is damaged, or not of 32x32x3"
    with pytest.raises(UserError) as caught:
        take(train_batches(config, **settings), 1)
    assert str(caught.value) == message

    config.damaged = "skip"
    (batch,) = take(train_batches(config, **settings), 1)
    assert batch["index"][batch["label"] == -1].tolist() == [7]
    assert f"skipped: {message}\n" in capfd.readouterr().err


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_shard_that_is_gone_is_not_skipped(policy, cifar10, sharding, tmp_path):
    images, labels = cifar10[1]["train"]
    official = {"train": (images[:20], labels[:20]), "test": cifar10[1]["test"]}
    name, folder = write_webdataset(tmp_path, official, shards=1)
    config = make_config(name, folder, resident="never", damaged=policy)
    batches = eval_batches(config, batch_size=20, sharding=sharding)
    gone = tmp_path / "cifar-test-000000.tar"
    gone.unlink()
    with pytest.raises((UserError, OSError), match=f"in {gone} can't be read"):
        list(batches)


def test_a_damaged_header_is_not_the_end_of_a_shard(cifar10, tmp_path):
    images, labels = cifar10[1]["train"]
    official = {"train": (images[:8], labels[:8]), "test": cifar10[1]["test"]}
    name, folder = write_webdataset(tmp_path, official, shards=1)
    shard = tmp_path / "cifar-train-000000.tar"
    with tarfile.open(shard) as archive:
        header = archive.getmembers()[10].offset
    whole = shard.read_bytes()
    wrong = bytearray(whole)
    wrong[header + 30] ^= 1
    for damaged in (
        bytes(wrong),
        whole[:header] + bytes(512) + whole[header + 512 :],
        whole[: header + 100],
        whole[:header],
    ):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{shard} is damaged from byte {header} on"):
            describe(make_config(name, folder))


def make_npz(path, **arrays):
    np.savez(path, **arrays)
    return make_config("npz", path)


IMAGES, LABELS = np.zeros((4, 8, 6), np.uint8), np.arange(4) % 2


def test_names_of_medmnist_and_of_classes(tmp_path):
    arrays = {"class_names": ["no", "yes"]}
    for split in ("train", "val", "test"):
        arrays |= {f"{split}_images": IMAGES, f"{split}_labels": LABELS[:, None]}
    info = describe(make_npz(tmp_path / "medmnist.npz", **arrays))
    assert info.image_shape == (8, 6, 1)
    assert info.class_names == ("no", "yes")
    assert (info.num_train, info.eval_split) == (4, "test")


SPLITS = ("train", "test")
PAIR = {"x_train": IMAGES, "y_train": LABELS}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "has no x_train and y_train, or train_images and train_labels, but"),
        ({**PAIR, "x_train": IMAGES / 255}, r"must be uint8 \[N, height, width\] .*, got float64"),
        ({**PAIR, "y_train": LABELS[1:]}, r"must be 4 whole numbers, got int64 \[3\]"),
        ({**PAIR, "y_train": LABELS / 2}, "must be 4 whole numbers, got float64"),
        ({**PAIR, "y_train": LABELS.astype(object)}, "can't be read as an .npz file"),
        (PAIR, "data set npz has no split for evaluation"),
        ({**PAIR, "x_test": IMAGES[:, :3], "y_test": LABELS}, "have images of several shapes"),
    ],
)
def test_other_npz_files(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        describe(make_npz(tmp_path / "wrong.npz", **arrays))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_one_line_or_unharmed(tmp_path, save):
    random = np.random.default_rng(0)
    images = {f"x_{split}": random.integers(0, 255, (4, 3, 2), np.uint8) for split in SPLITS}
    save(tmp_path / "whole.npz", **images, **{f"y_{split}": LABELS for split in SPLITS})
    whole, file = (tmp_path / "whole.npz").read_bytes(), tmp_path / "damaged.npz"
    refused = 0
    for place, value in zip(random.integers(0, len(whole), 400), random.bytes(400), strict=True):
        file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            opened = npz.open_file(file)
        except UserError:
            refused += 1
            continue
        for split, examples in opened.splits.items():
            assert np.array_equal(examples._images[..., 0], images[f"x_{split}"])
            assert np.array_equal(examples.labels, LABELS)
    assert 100 < refused < 400


@pytest.mark.parametrize(
    ("at", "value", "message"),  # in the entry of a file
    [
        (6, 99, "zip file version 9.9"),
        (8, 1, "'x_train.npy' is encrypted"),
        (10, 99, "compression method is not supported"),
    ],
)
def test_a_strange_npz_says_why(tmp_path, at, value, message):
    np.savez(tmp_path / "a.npz", **PAIR)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + at] = value
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"a.npz can't be read as an .npz file: .*{message}"):
        describe(make_config("npz", tmp_path / "a.npz"))


def test_a_label_without_a_class(tmp_path, sharding):
    config = make_npz(
        tmp_path / "few.npz", class_names=["a", "b"], **PAIR, x_test=IMAGES, y_test=LABELS - 1
    )
    with pytest.raises(UserError, match="without a label between 0 and 1, such as -1"):
        next(iter(eval_batches(config, batch_size=4, sharding=sharding)))


def test_names_of_shards_and_classes(tmp_path):
    image = png(np.zeros((5, 5, 3), np.uint8))
    (tmp_path / "val").mkdir()
    for file, key in (("train.tar", "0"), ("val/000.tar", "1")):
        _write_tar(tmp_path / file, {f"{key}.png": image, f"{key}.cls": key.encode()})
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    info = describe(make_config("webdataset", tmp_path, resident="never"))
    assert info.class_names == ("cat", "dog", "bird")
    assert (info.num_train, info.eval_split) == (1, "val")

    _write_tar(tmp_path / "train.tar", {"a.png": image, "a.cls": b"7"})
    with pytest.raises(UserError, match=r"classes.txt has 3 names, the labels need 8"):
        describe(make_config("webdataset", tmp_path))
    for wrong in ({"a.txt": b"7"}, {"a.cls": b"-1"}, {"a.cls": b"9" * 20}):
        _write_tar(tmp_path / "train.tar", {"a.png": image, **wrong})
        with pytest.raises(UserError, match=r"a in .*train.tar has no a.cls with the number of"):
            describe(make_config("webdataset", tmp_path))
    (tmp_path / "train.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"train.tar can't be read"):
        describe(make_config("webdataset", tmp_path))


def test_members_without_an_image_of_their_key_are_counted(tmp_path, capsys):
    """A key ends at the first dot: these two are no images, but `05.png` and `05.cls` of IMG_0."""
    image = png(np.zeros((5, 5, 3), np.uint8))
    for split in ("train", "val"):
        members = {"0.PNG": image, "0.CLS": b"0", "IMG_0.05.png": image, "IMG_0.05.cls": b"1"}
        _write_tar(tmp_path / f"{split}.tar", {**members, "2.png": image, "2.cls": b"1"})
    assert describe(make_config("webdataset", tmp_path, resident="never")).num_train == 2
    rule = "where a key ends at the first dot"
    line = f"left out in shards of '{{}}' in {tmp_path}, {rule}: 1 .cls, 1 .png\n"
    assert sorted(capsys.readouterr().err.splitlines(True)) == [*map(line.format, ("train", "val"))]


HIDDEN = (".ipynb_checkpoints", "__MACOSX", "train/@eaDir", "train/.hidden")


def test_hidden_files_are_no_shards(tmp_path):
    example = {"0.png": png(IMAGES[0]), "0.cls": b"0", "1.png": png(IMAGES[1]), "1.cls": b"1"}
    folder = tmp_path / ".hidden"  # the folder itself may be
    for place in ("train", "test", *HIDDEN):
        (folder / place).mkdir(parents=True)
        _write_tar(folder / place / "train-0.tar", example)
    (folder / "train" / "._train-0.tar").write_bytes(b"x")
    (folder / "gone").symlink_to("nowhere")
    # macOS puts such a member before each other.
    members = {f"./{mark}{name}": example[name] for name in example for mark in ("._", "")}
    _write_tar(folder / "test" / "train-0.tar", members)
    source = open_prepared("webdataset", str(folder))
    assert {split: len(examples) for split, examples in source.examples.items()} == {
        "train": 2,
        "test": 2,
    }
    assert source.examples["test"].read(1) == (example["1.png"], 1)

    (folder / "train" / "train-1.tar").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"train/train-1.tar is no file, or a link to none"):
        open_prepared("webdataset", str(folder))


@pytest.mark.slow
def test_hidden_files_are_no_rows(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = hf_dataset(IMAGES[:2], [3, 7])
    folder = tmp_path / ".hidden"
    for place in ("train", "test", *HIDDEN):
        (folder / place).mkdir(parents=True)
        rows.to_parquet(folder / place / "a.parquet")
    (folder / "train" / "._a.parquet").write_bytes(b"x")
    (folder / "gone").symlink_to("nowhere")
    source = open_prepared("hf_dataset", str(folder))
    labels = {split: [*examples.labels] for split, examples in source.examples.items()}
    assert labels == {"train": [3, 7], "test": [3, 7]}


def test_a_damaged_parquet_file_is_one_line(tmp_path, capfd):
    pytest.importorskip("datasets")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="can't be read as a data set: Parquet magic bytes not"):
        describe(make_config("hf_dataset", tmp_path))
    assert capfd.readouterr().err == ""


def test_what_is_not_there(tmp_path):
    for name, place, message in (
        ("npz", None, "data set npz needs data_dir"),
        ("npz", tmp_path / "none.npz", r"none.npz does not exist"),
        ("webdataset", "gs://bucket/folder", "must be on this machine"),
        ("webdataset", tmp_path, "holds no shards such as train-000000.tar"),
        ("npz", tmp_path, "can't be read as an .npz file"),
    ):
        with pytest.raises(UserError, match=message):
            describe(make_config(name, place))
    with pytest.raises(UserError, match="npz needs no preparation"):
        find_builder("npz", None)


@pytest.mark.slow
def test_folders_without_a_data_set_of_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match="can't be read as a data set"):
        describe(make_config("hf_dataset", tmp_path))
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="must have one column of images, or one that is called"):
        describe(make_config("hf_dataset", tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.png"], "label": ["cat"]}, "'label' of .* must have whole numbers"),
        ({"image": ["a.png"], "label": [0.5]}, "must have whole numbers or names of .*float32"),
        ({"image": ["a.png"], "label": [[0, 1]]}, "must have whole numbers or names of classes"),
        ({"image": [1], "label": [0]}, "column 'image' of .* has no images"),
    ],
)
def test_columns_of_other_types(tmp_path, columns, message):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=message):
        describe(make_config("hf_dataset", tmp_path))


def test_rows_without_a_label_have_none(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": ["a", "b"], "label": [1, None]}).save_to_disk(tmp_path)
    assert open_folder(tmp_path).splits["train"].labels.tolist() == [1, -1]


def test_missing_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"package datasets: pip install 'aggnets-jax\[datasets\]'"):
        describe(make_config("hf_dataset", tmp_path))


def test_a_changed_file_is_read_again(cifar10, tmp_path):
    official = cifar10[1]
    config = make_config(*write_npz(tmp_path, official))
    assert describe(config).num_train == 103
    fewer = {**official, "train": tuple(x[:10] for x in official["train"])}
    write_npz(tmp_path, fewer)
    assert describe(config).num_train == 10


def test_rows_of_other_processes_are_not_read(foreign_cifar10):
    config = foreign_cifar10("webdataset", resident="never")
    split = Split(open_prepared(config.name, config.data_dir), describe(config), "train")
    both = {}
    for held in (np.arange(8), np.arange(0, 4), np.arange(4, 8)):
        batches = train_dataset(split, BatchRows(8, held), seed=0, start_step=2)
        both[tuple(held)] = join([*itertools.islice(iter(batches), 3)])["index"].reshape(3, -1)
    halves = np.concatenate([both[0, 1, 2, 3], both[4, 5, 6, 7]], axis=1)
    assert np.array_equal(both[tuple(range(8))], halves)
