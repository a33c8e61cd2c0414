"""Images with several labels: ImageNet ReaL in TFDS's format, and their scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import data
from aggnets_jax.config import default_config
from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import score
from tests.data.damaging import replace, shard, truncate
from tests.data.official_formats import prepare_small_imagenet_real

REAL = [[65, 3], [], [230], [809, 968, 504], [516, 57], [334], []]


@pytest.mark.slow
def test_batches_have_the_labels_of_real(tmp_path):
    labels = prepare_small_imagenet_real(tmp_path, REAL)
    config = default_config().data
    config.update({"name": "imagenet2012_real", "data_dir": str(tmp_path), "image_size": 32})
    config.update({"train_split": "validation", "resident": "never"})
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    batches = data.eval_batches(config, batch_size=4, sharding=sharding)
    found = [jax.device_get(batch) for batch in batches]
    rows = [
        sorted(row[row >= 0].tolist())
        for batch in found
        for row in batch["labels"][batch["label"] != 0]  # the last place is padding
    ]
    assert sorted(rows) == sorted(map(sorted, REAL))
    masks = np.concatenate([batch["mask"] for batch in found])
    assert np.count_nonzero(masks) == 5 and len(masks) == 8
    assert len(labels) == batches.num_examples == 7

    file = shard(tmp_path, "validation", 0)
    for damage, told in (
        (lambda: replace(file, 1, b"nothing"), "image 1 of .* is damaged"),
        (lambda: truncate(file, 0), "is damaged from record 0 on"),
    ):
        damage()
        config.damaged = "stop"
        with pytest.raises(UserError, match=told):
            data.eval_batches(config, batch_size=4, sharding=sharding)
        config.damaged = "skip"
        first = next(iter(data.eval_batches(config, batch_size=4, sharding=sharding)))
        assert (jax.device_get(first["labels"])[1] == -1).all()


def test_a_prediction_is_right_if_it_is_one_of_the_labels():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.5, 0.25, 0.25]]))
    batch = {
        "labels": jnp.array([[0, 2], [1, 2], [-1, -1]]),
        "label": jnp.array([0, 1, -1]),
        "mask": jnp.array([True, True, False]),
    }
    found = score(logits, batch)
    assert found["correct"].tolist() == [True, False, False]
    np.testing.assert_allclose(found["loss"], [-np.log(0.8), -np.log(0.4), 0], rtol=1e-6)
    single = {**batch, "labels": jnp.array([[2, -1], [1, -1], [0, -1]])}
    alone = {"label": jnp.array([2, 1, 0]), "mask": batch["mask"]}
    for name, values in score(logits, alone).items():
        np.testing.assert_allclose(score(logits, single)[name], values, rtol=1e-6)
