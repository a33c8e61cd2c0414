"""Images on the devices: each once an epoch, and a batch a function of (seed, step)."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aggnets_jax.data import ResidentData

sizes = st.integers(1, 40)


def _data(num_examples, batch_size, seeds=0, most_steps=1):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    images = np.arange(num_examples, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return ResidentData(
        images,
        np.arange(num_examples, dtype=np.int32),
        batch_size=batch_size,
        seeds=seeds,
        most_steps=most_steps,
        sharding=NamedSharding(mesh, PartitionSpec("data")),
    )


def _batches(data, steps, start=0):
    """Return the batches of some steps, taken from as few feeds as possible."""
    batch, batches = jax.jit(data.batch), []
    for first in range(start, start + steps, data.most_steps):
        feed = data.feed(first)
        batches += [batch(feed, i) for i in range(min(data.most_steps, start + steps - first))]
    return jax.device_get(batches)


@settings(max_examples=6, deadline=None)
@given(num_examples=sizes, batch_size=sizes, most_steps=st.integers(1, 7), seed=st.integers(0, 99))
def test_every_example_comes_once_an_epoch(num_examples, batch_size, most_steps, seed):
    data = _data(num_examples, batch_size, seed, most_steps)
    batches = _batches(data, -(-3 * num_examples // batch_size))
    epochs, index, label = (
        np.concatenate([batch[name] for batch in batches]) for name in ("epoch", "index", "label")
    )
    assert np.array_equal(epochs, np.arange(len(epochs)) // num_examples)
    assert np.array_equal(label, index)
    for epoch in range(3):
        assert np.array_equal(np.sort(index[epochs == epoch]), np.arange(num_examples))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(num_examples=sizes, batch_size=sizes, start=st.integers(0, 10**7), most=st.integers(2, 6))
def test_a_batch_follows_from_its_step_alone(num_examples, batch_size, start, most):
    alone = _batches(_data(num_examples, batch_size), most, start)
    together = _batches(_data(num_examples, batch_size, most_steps=most), most, start)
    for ours, theirs in zip(alone, together, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_order_changes_with_seed_and_epoch():
    first, second = _batches(_data(50, 50), 2)
    (other,) = _batches(_data(50, 50, seeds=1), 1)
    orders = {batch["index"].tobytes() for batch in (first, second, other)}
    assert len(orders) == 3


@pytest.mark.slow
def test_every_place_of_an_order_is_uniform():
    orders = np.stack([_batches(_data(8, 8, seeds=7), 1, e)[0]["index"] for e in range(400)])
    counts = np.stack([np.bincount(orders[:, place], minlength=8) for place in range(8)])
    # Chi-square with 49 degrees of freedom is above 85 once in a thousand times.
    assert ((counts - 50) ** 2 / 50).sum() < 85


def test_several_seeds_have_the_orders_of_each():
    data = _data(30, 8, seeds=np.array([3, 4, 5], np.int32))
    together = jax.vmap(data.batch, in_axes=(data.seed_axes, None))(data.feed(6), 0)
    for place, seed in enumerate((3, 4, 5)):
        (alone,) = _batches(_data(30, 8, seeds=seed), 1, 6)
        jax.tree.map(
            lambda ours, theirs, place=place: np.testing.assert_array_equal(ours[place], theirs),
            together,
            alone,
        )
