"""Evaluation on another data set than the one on which a network has learnt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from aggnets_jax import data
from aggnets_jax.config import default_config
from aggnets_jax.convert.facts import imagenet_classes
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step, other_evaluation
from aggnets_jax.main import main
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.workdir.restore import Restored
from tests.data.image_folders import COLOURS
from tests.data.official_formats import prepare_small_imagenet_part


class Favourites:
    """A network with the same logits for every image."""

    def __init__(self, logits):
        self.logits = jnp.array(logits, jnp.float32)

    def apply(self, variables, images, *, train):
        del variables, train
        return jnp.tile(self.logits, (len(images), 1)), {}


def restored(names, logits, size=32):
    info = data.DatasetInfo(
        *("imagenet2012", len(names), tuple(names), (size, size, 3), 0, 0, "train", "validation"),
        *((0.5,) * 3, (0.5,) * 3, False, True),
    )
    return Restored(0, default_config(), info, Favourites(logits), {})


def images_of(model_and_batches, network):
    """Return metrics, and the images and labels that count."""
    model, batches = model_and_batches
    step = make_eval_step(Classification(), model, data.as_they_are)
    found = evaluate(Classification(), step, network.variables, batches)
    read = [jax.device_get(batch) for batch in batches]
    kept = np.concatenate([batch["mask"] for batch in read])
    return found, *(np.concatenate([b[k] for b in read])[kept] for k in ("image", "label"))


def make_folder(folder, classes, size):
    """Write an image of each class, FOLDER/test/CLASS/0.png, of its colour."""
    for number, name in enumerate(classes):
        (folder / "test" / name).mkdir(parents=True)
        image = np.full((*size, 3), (40 * number, 100, 200), np.uint8)
        image[:, : size[1] // 4] = 250  # at the border
        Image.fromarray(image).save(folder / "test" / name / "0.png")
    return str(folder)


def test_a_part_of_the_classes_is_judged_among_its_own(tmp_path):
    """The favourite of the network, "rose", is not in the set: the next one counts."""
    network = restored(["lily", "oak", "rose", "tulip"], [0.0, 1.0, 9.0, 2.0])
    folder = make_folder(tmp_path, ["lily", "oak", "tulip"], (32, 32))
    other = other_evaluation(network, mesh_lib.make_mesh(), "image_folder", folder)
    found, images, labels = images_of(other, network)
    assert found["accuracy"] == pytest.approx(1 / 3) and found["examples"] == 3
    (right,) = images[labels == 2]
    assert right[0, -1].tolist() == [80, 100, 200]  # the tulip
    loss = np.log(np.exp([0.0, 1.0, 2.0]).sum()) - 1.0
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_classes_in_another_order_are_found_by_their_names(tmp_path):
    network = restored(["oak", "lily"], [0.0, 1.0])
    folder = make_folder(tmp_path, ["lily", "oak"], (32, 32))
    model, batches = other_evaluation(network, mesh_lib.make_mesh(), "image_folder", folder)
    assert model is network.model
    found, images, labels = images_of((model, batches), network)
    assert labels[images[:, 0, -1, 0].argmin()] == 1  # the lily
    assert sorted(labels) == [0, 1] and found["accuracy"] == 1 / 2


@pytest.mark.parametrize("whole", [False, True])
def test_whole_images_are_not_cropped(whole, tmp_path):
    network = restored(sorted(COLOURS), [0.0, 1.0, 2.0])
    folder = make_folder(tmp_path, sorted(COLOURS), (32, 32))
    other = other_evaluation(
        network, mesh_lib.make_mesh(), "image_folder", folder, "test", whole=whole
    )
    _, images, _ = images_of(other, network)
    border = np.count_nonzero((images == 250).all(-1)) / images[..., 0].size
    assert (border == 0.25) == whole


@pytest.mark.slow
def test_imagenet_a_is_judged_among_its_classes(tmp_path):
    """A network whose favourite has no images there; TFDS's labels are ImageNet's."""
    names = imagenet_classes()
    logits = np.zeros(1000)
    logits[names.index("n01440764")] = 9.0  # not in ImageNet-A
    logits[names.index("n01531178")] = 2.0
    network = restored(names, logits)
    synsets = ["n01498041", "n01531178", "n12267677", "n01534433"]
    prepare_small_imagenet_part("imagenet_a", tmp_path, synsets)
    other = other_evaluation(network, mesh_lib.make_mesh(), "imagenet_a", str(tmp_path))
    found, _, labels = images_of(other, network)
    assert found["accuracy"] == 1 / 4 and found["examples"] == 4
    assert sorted(labels) == [0, 1, 2, 199]  # places in the authors' list


def test_images_with_other_channels_are_refused(finished_run, tmp_path, capsys):
    folder = make_folder(tmp_path, map(str, range(10)), (8, 8))
    flags = [f"--workdir={finished_run}", "--data=image_folder", f"--data_dir={folder}"]
    assert main(["eval", *flags]) == 2
    assert "have 3 channels, and the network takes 1" in capsys.readouterr().err


def make_npz(file, shape):
    labels = np.arange(4) % 2
    arrays = {f"x_{split}": np.zeros((4, *shape), np.uint8) for split in ("train", "test")}
    np.savez(file, **arrays, y_train=labels, y_test=labels, class_names=["lily", "oak"])
    return str(file)


def test_only_square_images_are_resized(tmp_path):
    network = restored(["lily", "oak"], [0.0, 1.0])
    info = dataclasses.replace(network.info, image_shape=(12, 20, 3))
    network, mesh = network._replace(info=info), mesh_lib.make_mesh()
    same, other = (make_npz(tmp_path / f"{n}.npz", (12, n, 3)) for n in (20, 12))
    _, images, _ = images_of(other_evaluation(network, mesh, "npz", same), network)
    assert images.shape == (4, 12, 20, 3)
    with pytest.raises(UserError, match="are 12x12, and the network's are 12x20"):
        other_evaluation(network, mesh, "npz", other)


def test_data_elsewhere_have_the_same_shape(tmp_path):
    network = restored(["lily", "oak"], [0.0, 1.0])
    info = dataclasses.replace(network.info, num_train=4, image_shape=(12, 12, 3))
    network.config.data.name = "npz"
    file = make_npz(tmp_path / "a.npz", (12, 12, 1))
    with pytest.raises(UserError, match="npz are 12x12x1, and the checkpoint's are 12x12x3"):
        evaluation_batches(network._replace(info=info), mesh_lib.make_mesh(), file)


def test_split_is_of_the_other_set(finished_run, data_dir, capsys):
    flags = [f"--workdir={finished_run}", f"--data_dir={data_dir}"]
    assert main(["eval", *flags, "--split=train"]) == 2
    assert "--split is for --data" in capsys.readouterr().err
    assert main(["eval", *flags, "--data=aggnets_digits", "--split=train_10_per_class"]) == 0
    assert "of 100 images" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["detection", "multilabel"])
def test_only_classifiers_are_evaluated_on_another_set(task, scenes_dir):
    network = restored(["lily", "oak"], [0.0, 1.0])
    network.config.task = task
    with pytest.raises(UserError, match=f"^--data is for classification, .* a run of {task}$"):
        other_evaluation(network, mesh_lib.make_mesh(), "coco_folder", scenes_dir)


def test_weights_without_data_are_not_judged_among_a_part_unasked(tmp_path):
    network = restored(["lily", "oak", "rose"], [0.0, 1.0, 2.0])
    network.config.data.name = "image_folder"
    folder = make_folder(tmp_path, ["lily", "oak"], (32, 32))
    with pytest.raises(UserError, match="name it by --data"):
        evaluation_batches(network, mesh_lib.make_mesh(), folder)
