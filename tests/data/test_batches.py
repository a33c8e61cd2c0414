"""Training and evaluation batches: exactly once, in an order that depends on nothing else."""

import copy
import itertools

import jax
import numpy as np
import pytest

from aggnets_jax.data import describe, eval_batches, make_preprocess, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.host_pipeline import load_split
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config
from tests.data.foreign_sets import WRITERS
from tests.marks import mostly_slow


def take(batches, count):
    """Return the next batches, on the host."""
    return [jax.device_get(batch) for batch in itertools.islice(batches, count)]


def join(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


FOREIGN = [pytest.param(form, marks=pytest.mark.slow) for form in WRITERS]


@pytest.fixture(scope="module", params=["resident", "streamed", "imagenet", *FOREIGN])
def training_set(request, cifar10, imagenet, foreign_cifar10):
    """Configs of the ways in which training images come."""
    if request.param in WRITERS:
        return foreign_cifar10(request.param, resident="never")
    if request.param == "imagenet":
        return make_config("imagenet2012", imagenet[0], image_size=24)
    resident = "always" if request.param == "resident" else "never"
    return make_config("cifar10", cifar10[0], resident=resident)


def test_batches_are_what_they_say(training_set, sharding):
    info = describe(training_set)
    (batch,) = itertools.islice(
        train_batches(training_set, batch_size=8, seed=0, sharding=sharding), 1
    )
    kinds = {name: (array.shape, str(array.dtype)) for name, array in batch.items()}
    assert kinds == {
        "image": ((8, *info.image_shape), "uint8"),
        "label": ((8,), "int32"),
        "epoch": ((8,), "int32"),
        "index": ((8,), "int32"),
    }
    assert all(array.sharding.is_equivalent_to(sharding, array.ndim) for array in batch.values())


@mostly_slow("batch_size", [16, 260], quick=(1,))  # not a divisor of N; larger than two epochs
def test_every_example_once_an_epoch(training_set, sharding, batch_size):
    count = describe(training_set).num_train
    steps = -(-3 * count // batch_size)
    seen = join(
        take(train_batches(training_set, batch_size=batch_size, seed=1, sharding=sharding), steps)
    )
    assert np.array_equal(seen["epoch"], np.arange(steps * batch_size) // count)
    orders = [seen["index"][seen["epoch"] == epoch] for epoch in range(3)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(count))
    assert len({order.tobytes() for order in [*orders, np.arange(count, dtype=np.int32)]}) == 4


def test_copies_stand_beside_each_other(training_set, sharding):
    """Each image comes once in a pass over them, with a number for each copy as its epoch."""
    config = copy.deepcopy(training_set)
    config.repeats = 3
    count = describe(config).num_train
    settings = {"batch_size": 12, "seed": 1, "sharding": sharding}
    batches = take(train_batches(config, **settings), -(-6 * count // 12))
    seen = {name: array[: 6 * count].reshape(-1, 3) for name, array in join(batches).items()}
    passes = np.arange(2 * count) // count
    assert np.array_equal(seen["epoch"], 3 * passes[:, None] + np.arange(3))
    for name in ("index", "label"):
        assert (seen[name] == seen[name][:, :1]).all()
    for number in range(2):
        assert np.array_equal(np.sort(seen["index"][passes == number, 0]), np.arange(count))
    resumed = take(train_batches(config, start_step=9, **settings), 3)
    for ours, theirs in zip(resumed, batches[9:12], strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def through(training_set, sharding):
    """How the batches are made, and the first 44 of them, made without a break."""
    settings = {"batch_size": 12, "seed": 5, "sharding": sharding}
    return settings, take(train_batches(training_set, **settings), 44)


@mostly_slow("start_step", [1, 9, 40], quick=(1,))
def test_resuming_changes_nothing(training_set, through, start_step):
    settings, batches = through
    resumed = take(train_batches(training_set, start_step=start_step, **settings), 4)
    for ours, theirs in zip(resumed, batches[start_step : start_step + 4], strict=True):
        for name in ours:
            assert np.array_equal(ours[name], theirs[name]), name


def test_another_seed_is_another_order(training_set, sharding):
    orders = [
        take(train_batches(training_set, batch_size=20, seed=seed, sharding=sharding), 1)[0]
        for seed in (0, 1)
    ]
    assert not np.array_equal(orders[0]["index"], orders[1]["index"])


@pytest.mark.parametrize("resident", ["always", "never"])
@mostly_slow("split", ["train", "train[60%:]+train[10%:40%]", "test+train[5:50]"], quick=(1,))
def test_index_is_the_place_in_reading_order(cifar10, sharding, resident, split):
    config = make_config("cifar10", cifar10[0], resident=resident, train_split=split)
    builder = open_prepared("cifar10", str(cifar10[0]))
    images, labels = load_split(Split(builder, describe(config), split))
    steps = -(-len(labels) // 16)
    seen = join(take(train_batches(config, batch_size=16, seed=2, sharding=sharding), steps))
    assert np.array_equal(np.sort(seen["index"][seen["epoch"] == 0]), np.arange(len(labels)))
    assert np.array_equal(seen["image"], images[seen["index"]])
    assert np.array_equal(seen["label"], labels[seen["index"]])


def test_images_and_labels_are_the_official_ones(cifar10, cifar100, sharding):
    for name, (data_dir, official) in (("cifar10", cifar10), ("cifar100", cifar100)):
        config = make_config(name, data_dir)
        images, labels = official["train"]
        (seen,) = take(train_batches(config, batch_size=len(labels), seed=0, sharding=sharding), 1)
        assert pairs(seen["image"], seen["label"]) == pairs(images, labels)


def pairs(images, labels):
    """Return what is paired with what, in no order."""
    return sorted((int(k), image.tobytes()) for image, k in zip(images, labels, strict=True))


def test_resident_and_streamed_images_are_augmented_alike(cifar10, sharding):
    augmented = {}
    for resident in ("always", "never"):
        config = make_config("cifar10", cifar10[0], resident=resident)
        preprocess = jax.jit(make_preprocess(config, describe(config)), static_argnames="train")
        batches = take(train_batches(config, batch_size=103, seed=7, sharding=sharding), 2)
        for batch in batches:
            images = np.asarray(preprocess(batch, train=True, seed=7))
            for k, (epoch, index) in enumerate(zip(batch["epoch"], batch["index"], strict=True)):
                augmented[resident, int(epoch), int(index)] = images[k]
    assert len(augmented) == 2 * 2 * 103
    for epoch, index in itertools.product(range(2), range(103)):
        ours, theirs = (augmented[way, epoch, index] for way in ("always", "never"))
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(augmented["always", 0, 0], augmented["always", 1, 0])


@pytest.mark.parametrize("resident", ["always", "never"])
@pytest.mark.parametrize("batch_size", [7, 25, 49, 50, 64])
def test_evaluation_counts_every_example_once(cifar10, sharding, resident, batch_size):
    data_dir, official = cifar10
    config = make_config("cifar10", data_dir, resident=resident)
    batches = eval_batches(config, batch_size=batch_size, sharding=sharding)
    assert len(batches) == -(-50 // batch_size)
    assert batches.num_examples == 50
    first, second = take(batches, 100), take(batches, 100)
    assert len(first) == len(batches)
    for batch in first:  # no larger than the set
        assert batch["image"].shape == (min(batch_size, 50), 32, 32, 3)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    seen = join(first)
    mask = seen["mask"]
    assert np.array_equal(mask, np.arange(len(mask)) < 50)
    assert pairs(seen["image"][mask], seen["label"][mask]) == pairs(*official["test"])
    assert not seen["image"][~mask].any()
    assert not seen["label"][~mask].any()
    for name, array in join(second).items():
        assert np.array_equal(array, seen[name]), name


def test_resident_evaluation_batches_stay_on_the_device(cifar10, sharding):
    batches = eval_batches(make_config("cifar10", cifar10[0]), batch_size=16, sharding=sharding)
    for ours, theirs in zip(batches, batches, strict=True):
        assert ours["image"] is theirs["image"]


def test_a_large_evaluation_stays_only_if_it_must(cifar10, sharding, monkeypatch):
    monkeypatch.setattr("aggnets_jax.data.dataset_info.RESIDENT_BYTES", 60 * 32 * 32 * 3)
    config = make_config("cifar10", cifar10[0], train_split="test", eval_split="train")
    for resident, stays in (("auto", False), ("always", True)):
        config.resident = resident
        assert describe(config).resident  # 50 images fit, and 103 do not
        batches = eval_batches(config, batch_size=16, sharding=sharding)
        first, second = (next(iter(batches))["image"] for _ in range(2))
        assert (first is second) == stays


def test_an_interrupted_pass_leaves_the_next_one_whole(cifar10, sharding):
    batches = eval_batches(make_config("cifar10", cifar10[0]), batch_size=16, sharding=sharding)
    next(iter(batches))
    assert sum(int(batch["mask"].sum()) for batch in batches) == 50


def test_sets_stored_in_an_order_are_shuffled(odd_sets, sharding):
    config = make_config("aggnets_grey_shapes", odd_sets, image_size=16)
    seen = join(take(train_batches(config, batch_size=7, seed=0, sharding=sharding), 3))
    orders = seen["index"].reshape(3, 7)
    assert np.array_equal(np.sort(orders), np.tile(np.arange(7), (3, 1)))
    assert any(not np.array_equal(order, np.arange(7)) for order in orders)
    assert np.array_equal(seen["label"], seen["index"] % 2)
    assert seen["image"].shape == (21, 16, 16, 1)
    # Each image has one shade, by its number, which no crop or resizing changes.
    assert np.array_equal(seen["image"].max((1, 2, 3)), 20 * seen["index"])
    assert np.array_equal(seen["image"].min((1, 2, 3)), 20 * seen["index"])


def test_examples_without_labels_are_refused(odd_sets, sharding):
    config = make_config("aggnets_grey_shapes", odd_sets, image_size=16)
    with pytest.raises(UserError, match="'test' has examples without a label between 0 and 1"):
        next(iter(eval_batches(config, batch_size=2, sharding=sharding)))


@pytest.mark.parametrize(
    ("repeats", "message"),
    [(3, "8 is not divisible by config.data.repeats 3; nearest: 9"), (0, "at least 1, got 0")],
)
def test_copies_must_fill_batches(repeats, message, cifar10, sharding):
    config = make_config("cifar10", cifar10[0], repeats=repeats)
    with pytest.raises(UserError, match=message):
        train_batches(config, batch_size=8, seed=0, sharding=sharding)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_mistakes_are_errors_before_the_first_batch(cifar10, sharding, changes, message):
    settings = {"batch_size": 8, "seed": 0, "sharding": sharding} | changes
    with pytest.raises(UserError, match=message):
        train_batches(make_config("cifar10", cifar10[0]), **settings)
