"""The order of records: each process reads its part, and all read each example once an epoch."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggnets_jax import data
from aggnets_jax.data import describe
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.host_pipeline import eval_dataset, train_dataset
from aggnets_jax.data.record_order import (
    BatchRows,
    Streams,
    count_streams,
    eval_records,
    train_records,
)
from aggnets_jax.data.records import SplitReader
from aggnets_jax.data.tf_runtime import import_tensorflow
from tests.data.conftest import make_config
from tests.data.official_formats import prepare_small_cifar10
from tests.data.test_batches import join
from tests.marks import mostly_slow

NUM_TRAIN, NUM_TEST, FILES = 163, 50, 16


@st.composite
def splits_into_streams(draw):
    count = draw(st.integers(1, 8))
    return Streams(draw(st.integers(1, 200)), count * draw(st.integers(1, 12)), count)


@settings(deadline=None, max_examples=20)
@given(splits_into_streams(), st.integers(0, 10**6), st.integers(0, 400))
def test_places_of_streams(streams, first_epoch, step):
    """The closed forms agree with counting, also in late epochs."""
    tf = import_tensorflow()
    ends = np.arange(streams.count + 1)
    first = first_epoch * streams.num_examples
    places = np.arange(first, first + 3 * streams.num_examples)
    stream, epoch = places % streams.batch_size // streams.rows_each, places // streams.num_examples
    for number in range(first_epoch, first_epoch + 3):
        begins = streams.begin(tf.constant(ends), tf.constant(number, tf.int64))
        counted = (stream[epoch == number, None] < ends).sum(0)
        np.testing.assert_array_equal(begins, counted)
        assert np.ptp(np.diff(begins)) <= streams.rows_each

    begin = step * streams.batch_size
    before = np.arange(begin // streams.num_examples * streams.num_examples, begin)
    counted = np.bincount(before % streams.batch_size // streams.rows_each, minlength=streams.count)
    np.testing.assert_array_equal(streams.done(tf.constant(ends[:-1]), step), counted)


@pytest.mark.parametrize(
    ("batch_size", "num_files", "count"),
    [(256, 1024, 64), (256, 16, 16), (256, 3, 2), (96, 50, 48), (7, 1024, 7), (127, 100, 1)],
)
def test_streams_are_as_many_as_batch_and_files_allow(batch_size, num_files, count):
    assert count_streams(batch_size, num_files) == count


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """Return a config of 163 training and 50 test images in 16 files each."""
    data_dir = tmp_path_factory.mktemp("many_files")
    prepare_small_cifar10(data_dir, num_train=NUM_TRAIN, num_test=NUM_TEST, num_shards=FILES)
    return make_config("cifar10", data_dir, resident="never")


def rows_of(process, processes, batch_size):
    return np.array_split(np.arange(batch_size), processes)[process]


def opened(config, name=None, skip=False):
    info = describe(config)
    return Split(open_prepared(config.name, config.data_dir), info, name or info.train_split, skip)


def train(config, steps, batch_size=16, rows=None, seed=6, start_step=0, skip=False):
    rows = BatchRows(batch_size, np.arange(batch_size) if rows is None else rows)
    batches = train_dataset(opened(config, skip=skip), rows, seed=seed, start_step=start_step)
    return list(itertools.islice(batches, steps))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for name in other:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


# Streams of 1, 3, 19 and 25 rows; the third ones are each shared by two processes.
@pytest.mark.parametrize(
    ("batch_size", "processes"),
    [
        pytest.param(16, 2, marks=pytest.mark.slow),
        pytest.param(48, 4, marks=pytest.mark.slow),
        (38, 4),
        pytest.param(400, 2, marks=pytest.mark.slow),
    ],
)
def test_processes_have_the_batches_of_one(many_files, batch_size, processes):
    steps = -(-3 * NUM_TRAIN // batch_size)
    whole = train(many_files, steps, batch_size=batch_size)
    parts = [
        train(many_files, steps, batch_size=batch_size, rows=rows_of(k, processes, batch_size))
        for k in range(processes)
    ]
    assert_same([join(part) for part in zip(*parts, strict=True)], whole)
    seen = join(whole)
    assert np.array_equal(seen["epoch"], np.arange(steps * batch_size) // NUM_TRAIN)
    for epoch in range(3):
        order = seen["index"][seen["epoch"] == epoch]
        assert np.array_equal(np.sort(order), np.arange(NUM_TRAIN))


@pytest.mark.parametrize("split", ["train[:61]", "train[30%:70%]+test+train[:20]"])
def test_slices_and_sums(many_files, split):
    config = many_files.copy_and_resolve_references()
    config.train_split = split
    count = describe(config).num_train
    seen = join(train(config, -(-2 * count // 16)))
    for epoch in range(2):
        order = seen["index"][seen["epoch"] == epoch]
        assert np.array_equal(np.sort(order), np.arange(count))


@pytest.fixture(scope="module", params=[np.arange(16), np.array([3, 4, 5, 11])])
def through(request, many_files):
    """Return some rows, and these rows of the first 66 batches, read without a break."""
    return request.param, train(many_files, 53 + 13, rows=request.param)


@mostly_slow("skip", [False, True], quick=(1,))
@mostly_slow("start_step", [1, 10, 11, 53], quick=(2,))  # 163 examples end within step 10
def test_going_on(many_files, through, start_step, skip):
    rows, batches = through
    goes_on = train(many_files, 13, rows=rows, start_step=start_step, skip=skip)
    assert_same(goes_on, batches[start_step : start_step + 13])


def test_order_changes_with_epoch_and_seed(many_files):
    orders = {}
    for seed in (6, 7):
        seen = join(train(many_files, 31, seed=seed))
        for epoch in range(2):
            orders[seed, epoch] = seen["index"][seen["epoch"] == epoch]
    for ours, theirs in itertools.combinations(orders.values(), 2):
        assert (ours == theirs).mean() < 0.3  # a stream of ten records has a tenth by chance
        # Nor does a batch come again as a whole, or in part.
        together = collections.Counter(
            len(set(a) & set(b))
            for a in np.split(ours[:160], 10)
            for b in np.split(theirs[:160], 10)
        )
        assert max(together) < 10


@pytest.fixture
def records_read(monkeypatch):
    """Return a list that gets an item for each record that is read or passed over in a file."""
    tf = import_tensorflow()
    read, read_file = [], data.records.read_file

    def count(record):
        read.append(record)
        return record

    def counted(builder, file):
        return read_file(builder, file).map(
            lambda record: tf.py_function(count, [record], tf.string)
        )

    monkeypatch.setattr(data.records, "read_file", counted)
    return read


@pytest.mark.parametrize("process", range(4))
def test_a_process_reads_its_part(many_files, records_read, process):
    rows = BatchRows(4, np.array([process]))
    records = train_records(
        SplitReader(opened(many_files)),
        rows,
        seed=process,
        start_step=0,
        buffer_size=NUM_TRAIN + 4,
    )
    next(records.as_numpy_iterator())  # its part of the epoch is in the buffer now
    # A range begins within a file, and it is gone through to there.
    assert NUM_TRAIN // 4 <= len(records_read) <= NUM_TRAIN // 4 + 1 + -(-NUM_TRAIN // FILES)


@mostly_slow("batch_size", [1, 2, 8, 50, 64], quick=(2,))
def test_evaluation_in_processes(many_files, batch_size):
    """Files hold three or four images: with smaller batches they are read as a whole."""

    def read(rows):
        return join([*eval_dataset(opened(many_files, "test"), BatchRows(batch_size, rows))()])

    whole = read(np.arange(batch_size))
    assert len(whole["label"]) == NUM_TEST
    for rows in (np.arange(batch_size // 2), np.setdiff1d(np.arange(batch_size), [1, 4, 5])):
        if len(rows):
            held = np.isin(np.arange(NUM_TEST) % batch_size, rows)
            part = read(rows)
            for name, values in whole.items():
                np.testing.assert_array_equal(part[name], values[held], err_msg=name)


def test_a_process_evaluates_its_part(many_files, records_read):
    reader = SplitReader(opened(many_files, "test"))
    records = eval_records(reader, BatchRows(16, np.arange(8, 12)))
    assert [int(record["index"]) for record in records] == [
        index for index in range(NUM_TEST) if index % 16 in range(8, 12)
    ]
    assert 12 <= len(records_read) <= 12 + 3 * 4
