"""Damaged data: named and stopped at, or named, skipped and counted."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax.data import describe, eval_batches, make_preprocess, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.damage import FileDamage, RecordDamage
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.decoding import FORMATS
from aggnets_jax.data.host_pipeline import train_dataset
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, make_eval_step
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.workdir.progress import print_evaluation
from tests.data.conftest import make_config
from tests.data.damaging import (
    change_image,
    copy_of,
    flip,
    half,
    larger,
    places,
    replace,
    shard,
    truncate,
)
from tests.data.image_folders import make_image_folder
from tests.data.test_batches import join, take
from tests.marks import mostly_slow

SLOWLY = pytest.mark.slow


def fails_with(message, call):
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == message


def train(config, sharding, count, **changes):
    settings = {"batch_size": 16, "seed": 3, "sharding": sharding} | changes
    return join(take(train_batches(config, **settings), count))


DAMAGES = {
    "half an image": (lambda file: change_image(file, 5, half), "image 5 of {}"),
    "a larger image": (lambda file: change_image(file, 5, larger), "image 5 of {}"),
    "no example": (lambda file: replace(file, 5, b"nothing"), "image 5 of {}"),
    "another byte": (lambda file: flip(file, 20), "{} is damaged from record 20 on"),
    "half a record": (lambda file: truncate(file, 20), "{} is damaged from record 20 on"),
    "fewer records": (lambda file: truncate(file, 20, 0), "{} is damaged from record 20 on"),
    "an empty file": (lambda file: truncate(file, 0, 0), "{} is damaged from record 0 on"),
}


@mostly_slow("damage", DAMAGES, quick=(0, 3, 4, 6))
def test_the_first_damage_is_named(cifar10, tmp_path, damage):
    change, message = DAMAGES[damage]
    file = shard(copy_of(cifar10[0], tmp_path / "data"), "train", 1)
    change(file)
    if message.startswith("image"):
        message += " is damaged, or not of 32x32x3"
    assert records_of(tmp_path / "data").first() == message.format(file)


def records_of(data_dir, split="train"):
    config = make_config("cifar10", data_dir)
    return RecordDamage(Split(open_prepared("cifar10", config.data_dir), describe(config), split))


@pytest.mark.parametrize(
    ("split", "lost"),
    [("train[:15]", []), ("train[:30]", range(20, 30)), ("train[25:30]", range(5))],
)
def test_of_a_slice_only_its_own_damage_counts(cifar10, tmp_path, split, lost):
    flip(shard(copy_of(cifar10[0], tmp_path / "data"), "train", 0), 20)
    records = records_of(tmp_path / "data", split)
    found = records.first()
    assert found.endswith("is damaged from record 20 on") if lost else found is None
    assert {records.message(str(~index)) for index in lost} == ({found} if lost else set())
    if 0 not in lost:
        message = f"split {split!r} of cifar10 can't always be read"
        fails_with(message, lambda: records.message(str(~14)))


@pytest.mark.parametrize(
    ("resident", "change"),
    [
        ("never", lambda file: flip(file, 9)),
        pytest.param("always", lambda file: change_image(file, 5, half), marks=SLOWLY),
        pytest.param("always", lambda file: flip(file, 9), marks=SLOWLY),
        pytest.param("never", lambda file: change_image(file, 5, half), marks=SLOWLY),
    ],
    ids=["streamed record", "resident image", "resident record", "streamed image"],
)
def test_a_run_stops_at_damage(cifar10, tmp_path, sharding, resident, change):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    config = make_config("cifar10", data_dir, resident=resident)
    evaluation = eval_batches(config, batch_size=16, sharding=sharding)
    for split in ("train", "test"):
        change(shard(data_dir, split, 1))
    fails_with(records_of(data_dir, "train").first(), lambda: train(config, sharding, 8))
    fails_with(records_of(data_dir, "test").first(), lambda: list(evaluation))


@pytest.fixture(scope="module")
def damaged(cifar10, tmp_path_factory):
    """Return a data_dir with damage in every file, and indices of damaged and of lost records."""
    data_dir = copy_of(cifar10[0], tmp_path_factory.mktemp("damaged") / "data")
    files = [shard(data_dir, "train", number) for number in range(3)]
    counts = [len(places(file)) - 1 for file in files]
    change_image(files[0], 5, half)
    flip(files[1], 20)
    change_image(files[2], 3, larger)
    change_image(shard(data_dir, "test", 0), 7, half)
    truncate(shard(data_dir, "test", 1), 10)
    return data_dir, {5, counts[0] + counts[1] + 3}, {counts[0] + k for k in range(20, counts[1])}


@pytest.mark.parametrize("resident", ["never", pytest.param("always", marks=SLOWLY)])
def test_skipped_images_keep_their_places_and_are_named_once(
    cifar10, damaged, sharding, capsys, resident
):
    data_dir, images, lost = damaged
    config = make_config("cifar10", data_dir, resident=resident, damaged="skip")
    seen = train(config, sharding, 20)
    printed = capsys.readouterr().err.splitlines()
    first, second, third = (shard(data_dir, "train", number) for number in range(3))
    assert sorted(printed) == [
        f"skipped: {second} is damaged from record 20 on",
        f"skipped: image 3 of {third} is damaged, or not of 32x32x3",
        f"skipped: image 5 of {first} is damaged, or not of 32x32x3",
    ]
    skipped = seen["label"] == -1
    assert not seen["image"][skipped].any()
    whole = train(make_config("cifar10", cifar10[0]), sharding, 7)
    image_of = dict(zip(whole["index"], whole["image"], strict=True))
    label_of = dict(zip(whole["index"], whole["label"], strict=True))
    for epoch in range(3):
        index, image, label = (
            seen[name][seen["epoch"] == epoch] for name in ("index", "image", "label")
        )
        whole_ones = label != -1
        if resident == "never":
            # Lost are the records after record 20 of its file, in the range that is read.
            gone = sorted({*range(103)} - {*index})
            assert gone == sorted(lost)[: len(gone)]
            assert gone
            assert np.array_equal(np.sort(index[~whole_ones]), [-1] * len(gone) + sorted(images))
            assert all(label_of[i] == k for i, k in zip(index, label, strict=True) if k != -1)
        else:
            gone = lost
        assert sorted(x.tobytes() for x in image[whole_ones]) == sorted(
            image_of[index].tobytes() for index in {*range(103)} - images - {*gone}
        )


@pytest.mark.slow
def test_skipping_does_not_depend_on_start_or_rows(damaged, sharding):
    config = make_config("cifar10", damaged[0], resident="never", damaged="skip")
    through = train(config, sharding, 10)
    resumed = train(config, sharding, 4, start_step=6)
    for name, values in through.items():
        assert np.array_equal(values[96:], resumed[name]), name
    assert (resumed["label"] == -1).any()
    split = Split(open_prepared("cifar10", str(damaged[0])), describe(config), "train", skip=True)
    rows = np.arange(8, 16)
    batches = train_dataset(split, BatchRows(16, rows), seed=3, start_step=0)
    for step, batch in zip(range(10), batches, strict=False):
        for name, values in through.items():
            assert np.array_equal(values[16 * step + rows], batch[name]), name


@SLOWLY
def test_without_damage_both_policies_have_the_same_batches(cifar10, sharding):
    policies = [
        train(make_config("cifar10", cifar10[0], resident="never", damaged=damaged), sharding, 8)
        for damaged in ("stop", "skip")
    ]
    for name in policies[0]:
        assert np.array_equal(policies[0][name], policies[1][name]), name


class Linear(nn.Module):
    """No batch normalisation, through which a black image would change what others give."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1)), {}


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["never", pytest.param("always", marks=SLOWLY)])
def test_an_evaluation_is_of_what_is_not_skipped(cifar10, damaged, sharding, capsys, resident):
    config = make_config("cifar10", damaged[0], resident=resident, damaged="skip")
    batches = eval_batches(config, batch_size=16, sharding=sharding)
    batches.check()
    seen = join(take(batches, 4))
    before, held = (len(places(shard(cifar10[0], "test", number))) - 1 for number in (0, 1))
    lost = held - 10
    skipped = [7, *range(before + 10, before + held)]
    assert np.array_equal(np.flatnonzero(~seen["mask"]), [*skipped, *range(50, 64)])

    variables = Linear().init(jax.random.key(0), seen["image"] / 255.0, train=False)
    preprocess = make_preprocess(config, describe(config))
    metrics = evaluate(
        Classification(), make_eval_step(Classification(), Linear(), preprocess), variables, batches
    )
    logits, _ = Linear().apply(variables, preprocess(seen, train=False), train=False)
    hits = (np.argmax(logits, -1) == seen["label"])[seen["mask"]]
    assert (metrics["examples"], metrics["skipped"]) == (len(hits), 1 + lost)
    assert metrics["accuracy"] == pytest.approx(hits.mean())
    assert np.isfinite(metrics["loss"])
    capsys.readouterr()
    print_evaluation(Classification(), {"step": 3, **metrics})
    assert f"of {len(hits)} images, {1 + lost} skipped\n" in capsys.readouterr().out


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_file_that_is_not_there_is_named_at_once(cifar10, tmp_path, sharding, resident, policy):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    config = make_config("cifar10", data_dir, resident=resident, damaged=policy)
    for split in ("train", "test"):
        shard(data_dir, split, 1).rename(tmp_path / split)
    gone = f"{shard(data_dir, 'train', 0)} is not there".replace("00000-of", "00001-of")
    fails_with(gone, lambda: train(config, sharding, 1))
    fails_with(gone.replace("-train", "-test"), lambda: evaluation_of(config, sharding))


def evaluation_of(config, sharding):
    return eval_batches(config, batch_size=4, sharding=sharding)


@mostly_slow("policy", ["stop", "skip"], quick=(0,))
def test_records_that_vanish_are_not_skipped(cifar10, tmp_path, sharding, policy):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    config = make_config("cifar10", data_dir, resident="never", damaged=policy)
    evaluation = evaluation_of(config, sharding)
    file = shard(data_dir, "test", 1)
    file.unlink()
    fails_with(f"{file} can't be read (NotFoundError)", lambda: list(evaluation))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with half a file among 9 training and 6 test images."""
    make_image_folder(tmp_path, {"train": 3, "test": 2})
    for split in ("train", "test"):
        file = tmp_path / split / "green" / "1.jpg"
        file.write_bytes(half(file.read_bytes())[:300])
    return tmp_path


def test_files_are_skipped_and_named_once(folder, sharding, capsys):
    config = make_config("image_folder", folder, image_size=16, damaged="skip")
    evaluation = evaluation_of(config, sharding)
    for _ in range(2):
        seen = join(list(evaluation))
        assert seen["mask"].sum() == 5
        assert (seen["label"] == -1).sum() == 1
    seen = train(config, sharding, 4, batch_size=9)
    printed = [
        f"skipped: {folder}/{split}/green/1.jpg is damaged, or no {FORMATS}"
        for split in ("test", "train")
    ]
    assert capsys.readouterr().err.splitlines() == printed
    skipped = seen["label"] == -1
    assert np.array_equal(skipped.reshape(4, 9).sum(1), [1, 1, 1, 1])
    assert len(set(seen["index"][skipped])) == 1
    assert not seen["image"][skipped].any()
    assert seen["image"][~skipped].any((1, 2, 3)).all()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_files_that_vanish_are_not_skipped(folder, sharding, policy):
    config = make_config("image_folder", folder, image_size=16, damaged=policy)
    evaluation = evaluation_of(config, sharding)
    (folder / "test" / "green" / "1.jpg").unlink()
    gone = f"{folder}/test/green/1.jpg can't be read (NotFoundError)"
    fails_with(gone, lambda: list(evaluation))


def test_what_is_whole_is_not_skipped(folder):
    """As when a disk fails for a moment: a batch without the image would not be that of a rerun."""
    file = f"{folder}/train/green/0.jpg"
    fails_with(f"{file} can't always be read", lambda: FileDamage([file], 3).message(file))


@SLOWLY
def test_an_error_comes_with_its_batch_and_not_before(folder, sharding):
    config = make_config("image_folder", folder, image_size=16, damaged="skip")
    (place,) = np.flatnonzero(train(config, sharding, 1, batch_size=9)["label"] == -1)
    assert place > 0
    config.damaged = "stop"
    batches = train_batches(config, batch_size=1, seed=3, sharding=sharding)
    assert len(take(batches, place)) == place
    with pytest.raises(UserError, match=r"train/green/1.jpg is damaged"):
        next(batches)


@SLOWLY
def test_half_a_jpeg_of_many_sizes(imagenet, tmp_path, sharding, capsys):
    data_dir = copy_of(imagenet[0], tmp_path / "data")
    file = shard(data_dir, "validation", 0)
    change_image(file, 2, half)
    message = f"image 2 of {file} is damaged, or no {FORMATS}"
    config = make_config("imagenet2012", data_dir, image_size=16)
    fails_with(message, lambda: list(evaluation_of(config, sharding)))
    config.damaged = "skip"
    seen = join(list(evaluation_of(config, sharding)))
    assert np.array_equal(np.flatnonzero(seen["label"] == -1), [2])
    assert capsys.readouterr().err == f"skipped: {message}\n"


def test_training_needs_two_classes(cifar10, folder, sharding):
    message = "split 'train[:1]' has images of 1 class(es); training needs two or more"
    for config in (
        make_config("cifar10", cifar10[0], train_split="train[:1]"),
        make_config("image_folder", folder, image_size=16, train_split="train[:1]"),
    ):
        fails_with(message, lambda config=config: train(config, sharding, 1))


def test_a_set_needs_two_classes(tmp_path):
    make_image_folder(tmp_path, {"train": 2, "test": 2}, classes=["red"])
    config = make_config("image_folder", tmp_path, image_size=16)
    message = "data set image_folder has 1 class(es), and needs two or more"
    fails_with(message, lambda: describe(config))


@pytest.mark.parametrize(
    ("resident", "policy"),
    [("always", "stop"), ("never", "skip"), pytest.param("never", "stop", marks=SLOWLY)],
)
def test_labels_out_of_range_are_named_before_the_first_step(
    cifar10, tmp_path, sharding, resident, policy
):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    (names,) = data_dir.rglob("label.labels.txt")
    names.write_text("".join(names.read_text().splitlines(keepends=True)[:2]))
    config = make_config("cifar10", data_dir, resident=resident, damaged=policy)
    for call in (lambda: train(config, sharding, 1), evaluation_of(config, sharding).check):
        with pytest.raises(UserError, match="examples without a label between 0 and 1, such as"):
            call()


def test_damaged_metadata_is_one_line(cifar10, tmp_path):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    (facts,) = data_dir.rglob("dataset_info.json")
    facts.write_bytes(half(facts.read_bytes()))
    with pytest.raises(
        UserError,
        match=r"'cifar10' cannot be opened: .*dataset_info.json is damaged: Failed to load JSON",
    ):
        describe(make_config("cifar10", data_dir))
