"""Damaged data: named and stopped at, or named, skipped and counted."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax.data import describe, eval_batches, make_preprocess, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.damage import Records
from aggnets_jax.data.streaming import train_dataset
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, make_eval_step, print_evaluation
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
from tests.data.test_pipeline import join, take


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


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_first_damage_is_named(cifar10, tmp_path, damage):
    change, message = DAMAGES[damage]
    file = shard(copy_of(cifar10[0], tmp_path / "data"), "train", 1)
    change(file)
    if message.startswith("image"):
        message += " is damaged, or not of 32x32x3"
    assert records_of(tmp_path / "data").first() == message.format(file)


def records_of(data_dir, split="train"):
    config = make_config("cifar10", data_dir)
    return Records(open_prepared("cifar10", config.data_dir), describe(config), split)


@pytest.mark.parametrize(
    ("split", "first", "lost"),
    [
        ("train[:15]", None, 0),
        ("train[:30]", "from record 20 on", 10),
        ("train[25:30]", "20 on", 5),
    ],
)
def test_of_a_slice_only_its_own_damage_counts(cifar10, tmp_path, split, first, lost):
    flip(shard(copy_of(cifar10[0], tmp_path / "data"), "train", 0), 20)
    records = records_of(tmp_path / "data", split)
    found = records.first()
    assert found is None if first is None else found.endswith(first)
    if lost:
        assert len(records.of(f"__{lost - 1}")) == 1
    fails_with(f"split {split!r} of cifar10 can't always be read", lambda: records.of(f"__{lost}"))


@pytest.mark.parametrize("change", [lambda file: change_image(file, 5, half), lambda f: flip(f, 9)])
@pytest.mark.parametrize("resident", ["always", "never"])
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
    """A data_dir with damage in every file, and the indices of damaged images and lost records."""
    data_dir = copy_of(cifar10[0], tmp_path_factory.mktemp("damaged") / "data")
    files = [shard(data_dir, "train", number) for number in range(3)]
    counts = [len(places(file)) - 1 for file in files]
    change_image(files[0], 5, half)
    flip(files[1], 20)
    change_image(files[2], 3, larger)
    change_image(shard(data_dir, "test", 0), 7, half)
    truncate(shard(data_dir, "test", 1), 10)
    return data_dir, {5, counts[0] + counts[1] + 3}, {counts[0] + k for k in range(20, counts[1])}


@pytest.mark.parametrize("resident", ["always", "never"])
def test_skipped_images_keep_their_places_and_are_told_once(
    cifar10, damaged, sharding, capsys, resident
):
    data_dir, images, lost = damaged
    config = make_config("cifar10", data_dir, resident=resident, damaged="skip")
    seen = train(config, sharding, 20)
    told = capsys.readouterr().out.splitlines()
    first, second, third = (shard(data_dir, "train", number) for number in range(3))
    assert sorted(told) == [
        f"skipped: {second} is damaged from record 20 on",
        f"skipped: image 3 of {third} is damaged, or not of 32x32x3",
        f"skipped: image 5 of {first} is damaged, or not of 32x32x3",
    ]
    skipped = seen["label"] == -1
    assert not seen["image"][skipped].any()
    for epoch in range(3):
        now = seen["epoch"] == epoch
        assert (skipped & now).sum() == len(images) + len(lost)
    whole = train(make_config("cifar10", cifar10[0]), sharding, 7)
    assert sorted(x.tobytes() for x in seen["image"][:103][~skipped[:103]]) == sorted(
        image.tobytes()
        for image, index in zip(whole["image"][:103], whole["index"], strict=False)
        if index not in images | lost
    )
    if resident == "never":
        assert sorted(seen["index"][:103]) == [-1] * len(lost) + sorted({*range(103)} - lost)
        assert set(seen["index"][skipped]) == {-1, *images}
        by_index = dict(zip(whole["index"], whole["label"], strict=True))
        for index, label in zip(seen["index"][~skipped], seen["label"][~skipped], strict=True):
            assert label == by_index[index]


def test_skipping_does_not_depend_on_start_or_rows(damaged, sharding):
    config = make_config("cifar10", damaged[0], resident="never", damaged="skip")
    through = train(config, sharding, 10)
    resumed = train(config, sharding, 4, start_step=6)
    for name, values in through.items():
        assert np.array_equal(values[96:], resumed[name]), name
    assert (resumed["label"] == -1).any()
    builder = open_prepared("cifar10", str(damaged[0]))
    rows = np.arange(8, 16)
    batches = train_dataset(
        builder, describe(config), batch_size=16, rows=rows, seed=3, start_step=0, skip=True
    )
    for step, batch in zip(range(10), batches, strict=False):
        for name, values in through.items():
            assert np.array_equal(values[16 * step + rows], batch[name]), name


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


@pytest.mark.parametrize("resident", ["always", "never"])
def test_an_evaluation_is_of_what_is_not_skipped(cifar10, damaged, sharding, capsys, resident):
    config = make_config("cifar10", damaged[0], resident=resident, damaged="skip")
    batches = eval_batches(config, batch_size=16, sharding=sharding)
    batches.check()
    seen = join(take(batches, 4))
    lost = len(places(shard(cifar10[0], "test", 1))) - 1 - 10
    assert seen["mask"].sum() == 50 - 1 - lost
    assert np.array_equal(np.arange(64)[~seen["mask"]][1:], np.arange(50 - lost, 64))

    variables = Linear().init(jax.random.key(0), seen["image"] / 255.0, train=False)
    preprocess = make_preprocess(config, describe(config))
    metrics = evaluate(make_eval_step(Linear(), preprocess), variables, batches)
    logits, _ = Linear().apply(variables, preprocess(seen, train=False), train=False)
    hits = (np.argmax(logits, -1) == seen["label"])[seen["mask"]]
    assert (metrics["examples"], metrics["skipped"]) == (len(hits), 1 + lost)
    assert metrics["accuracy"] == pytest.approx(hits.mean())
    assert np.isfinite(metrics["loss"])
    capsys.readouterr()
    print_evaluation({"step": 3, **metrics})
    assert f"of {len(hits)} images, {1 + lost} skipped\n" in capsys.readouterr().out
