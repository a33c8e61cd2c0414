import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from aggnets_jax.detection.assign import IGNORED, NEGATIVE
from aggnets_jax.detection.sampling import draw, image_keys, sample
from tests.detection.scenes import SEEDS, few


def assignment(seed, number=60):
    random = np.random.default_rng(seed)
    rates = random.dirichlet([1, 1, 1])
    return jnp.asarray(random.choice([IGNORED, NEGATIVE, 3], number, p=rates), jnp.int32)


@given(SEEDS)
@few
def test_samples_are_candidates_of_their_kind_without_repetition(seed):
    assigned = assignment(seed)
    found = jax.tree.map(np.asarray, sample(jax.random.key(seed), assigned, number=32, positives=8))
    positives, negatives = int((assigned == 3).sum()), int((assigned == NEGATIVE).sum())
    assert found.positive.sum() == min(positives, 8)
    assert found.negative.sum() == min(negatives, 32 - found.positive.sum())
    real = found.positive | found.negative
    assert len(set(found.index[real])) == real.sum()
    np.testing.assert_array_equal(found.assigned[real], assigned[found.index[real]])
    # Positives come first, then negatives, then padding.
    kinds = np.where(found.positive, 0, np.where(found.negative, 1, 2))
    assert (np.diff(kinds) >= 0).all()
    assert (found.assigned[~real] == IGNORED).all()


def test_a_sample_depends_on_the_key_alone():
    assigned = assignment(1)
    first, again, other = (
        sample(jax.random.key(k), assigned, number=16, positives=4).index for k in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_keys_depend_on_seed_step_and_index_in_the_global_batch():
    key = jax.random.key(0)
    every = jax.random.key_data(image_keys(key, 5, jnp.arange(4)))
    half = jax.random.key_data(image_keys(key, 5, jnp.array([2, 3])))
    np.testing.assert_array_equal(half, every[2:])
    assert (jax.random.key_data(image_keys(key, 6, jnp.arange(4))) != every).any(axis=1).all()


def test_all_are_drawn_equally_often():
    mask = jnp.array([True, False, True, True, False, True])
    keys = jax.random.split(jax.random.key(0), 2000)
    index, real = jax.vmap(lambda key: draw(key, mask, 2))(keys)
    assert real.all()
    counts = np.bincount(np.asarray(index).ravel(), minlength=6)
    assert (counts[[1, 4]] == 0).all()
    assert (np.abs(counts[[0, 2, 3, 5]] - 1000) < 120).all()
