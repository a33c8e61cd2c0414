import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from aggnets_jax import config as config_lib
from aggnets_jax.data.objects import (
    EvaluatedImages,
    Form,
    TrainedImages,
    batches,
    read_annotations,
    train_data,
)
from aggnets_jax.detection.conventions import CENTER
from aggnets_jax.errors import UserError

FORM = Form(CENTER, 64, 64, 32, None, True, 16)


@pytest.fixture(scope="module")
def sharding():
    from aggnets_jax.runtime.mesh import batch_sharding, make_mesh

    return batch_sharding(make_mesh())


def split(folder, name, skip=False):
    return read_annotations(str(folder), name, masks=True, skip=skip)


def trained(folder, sharding, start_step=0, skip=False, seed=0, **changes):
    config = config_lib.resolve({"batch_size": 2, "data.damaged": "skip" if skip else "stop"})
    images = TrainedImages(split(folder, "train", skip), FORM, empty=False, least_side=32)
    arguments = {"seeds": np.int32(seed), "start_step": start_step, "sharding": sharding}
    return train_data(config, images, FORM, **arguments, **changes)


def test_training_leaves_out_images_without_objects(scenes_dir):
    data = split(scenes_dir, "train")
    images = TrainedImages(data, FORM, empty=False, least_side=32)
    assert images.index.tolist() == list(range(8))
    assert images.most == max(len(data.trained(i)) for i in range(8))
    assert len(TrainedImages(data, FORM, empty=True, least_side=32).index) == 10
    with pytest.raises(UserError, match="has no image with an object"):
        TrainedImages(data, FORM, empty=True, least_side=65)


def test_crowds_that_are_most_of_the_objects_are_told(scenes_dir, capsys):
    data = split(scenes_dir, "train")
    assert sum(each["iscrowd"] for own in data.objects for each in own) == 1
    TrainedImages(data, FORM, empty=False, least_side=32)
    assert capsys.readouterr().err == ""

    def as_crowds(images):
        marked = [tuple({**each, "iscrowd": 1} for each in own) for own in data.objects[:images]]
        return data._replace(objects=(*marked, *data.objects[images:]))

    TrainedImages(as_crowds(7), FORM, empty=False, least_side=32)
    assert "are trained: " in (err := capsys.readouterr().err) and "are crowds (iscrowd: 1)" in err
    with pytest.raises(UserError, match=r"to be trained on: (\d+) of \1 are crowds"):
        TrainedImages(as_crowds(10), FORM, empty=True, least_side=32)


def test_a_batch_is_a_function_of_seed_and_step(scenes_dir, sharding):
    training = trained(scenes_dir, sharding)
    first = [training.feed(step) for step in range(5)]
    assert [b["step"].tolist() for b in first] == [[step] * 2 for step in range(5)]
    seen = Counter(i for b in first[:4] for i in b["index"].tolist())
    assert sorted(seen) == list(range(8))
    later = trained(scenes_dir, sharding, start_step=3).feed(3)
    assert later.keys() == first[3].keys()
    for name, value in later.items():
        np.testing.assert_array_equal(value, first[3][name])
    other = trained(scenes_dir, sharding, seed=1).feed(0)
    assert other["index"].tolist() != first[0]["index"].tolist()


def test_several_seeds_are_refused(scenes_dir, sharding):
    with pytest.raises(UserError, match="one seed at a time"):
        config = config_lib.resolve({"batch_size": 2})
        images = TrainedImages(split(scenes_dir, "train"), FORM, empty=False, least_side=32)
        train_data(config, images, FORM, seeds=np.arange(2), sharding=sharding)


def test_each_image_is_evaluated_once(scenes_dir, sharding):
    form = Form(CENTER, 96, 64, 32, None, True, 16)  # 48x56 becomes 64x75, and is padded to 64x96
    evaluated = EvaluatedImages(
        split(scenes_dir, "test"), form, batch_size=4, skip=False, sharding=sharding
    )
    evaluated.check()
    found = list(evaluated)
    assert len(found) == len(evaluated) == 3
    assert [b["image"].shape[1:3] for b in found] == [(64, 64), (64, 64), (64, 96)]
    index = np.concatenate([b["index"] for b in found])
    masks = np.concatenate([b["mask"] for b in found])
    assert sorted(index[masks]) == list(range(6))
    assert (index[~masks] == -1).all()
    # The buckets of training have no 64x64.
    assert evaluated.sizes == [(64, 64), (64, 96)]
    bucketed = EvaluatedImages(
        split(scenes_dir, "test"), form, batch_size=4, skip=False, sharding=sharding, bucketed=True
    )
    assert bucketed.sizes == [(64, 96)]
    assert len(bucketed) == 2


def test_batches_of_an_evaluation_are_no_larger_than_its_images(scenes_dir, sharding):
    data = split(scenes_dir, "test")
    evaluated = EvaluatedImages(data, FORM, batch_size=256, skip=False, sharding=sharding)
    assert len(evaluated) == 1
    assert evaluated.batch_size - len(data.images) in range(sharding.num_devices)


def test_a_process_reads_the_rows_that_it_holds(scenes_dir, sharding, monkeypatch):
    def place(rows, sharding, batch_size):
        return rows

    monkeypatch.setattr(batches, "place_rows", place)
    whole, parts = [trained(scenes_dir, sharding).feed(0)], []
    for held in ([0], [1]):
        monkeypatch.setattr(batches, "local_rows", lambda *_, held=held: np.array(held))
        parts.append(trained(scenes_dir, sharding).feed(0))
    for name, value in whole[0].items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)


def test_a_damaged_image_ends_the_run_or_is_blank(scenes_dir, sharding, tmp_path, capsys):
    folder = Path(shutil.copytree(scenes_dir, tmp_path / "scenes"))
    index = int(trained(folder, sharding).feed(0)["index"][0])
    (folder / "train" / f"{index + 1:06d}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"\.png is damaged"):
        trained(folder, sharding).feed(0)
    batch = trained(folder, sharding, skip=True).feed(0)
    assert batch["size"].tolist() == [[0, 0], [64, 64]]
    assert not batch["valid"][0].any()
    assert capsys.readouterr().err.count("skipped: ") == 1


def test_a_file_that_can_not_be_read_is_no_damaged_image(scenes_dir, sharding, tmp_path):
    """A storage may answer again later."""
    folder = Path(shutil.copytree(scenes_dir, tmp_path / "scenes"))
    index = int(trained(folder, sharding).feed(0)["index"][0])
    file = folder / "train" / f"{index + 1:06d}.png"
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match=file.name):
        trained(folder, sharding, skip=True).feed(0)
