"""Input pipelines that are timed: what they read, and that they run."""

import json

import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.benchmark import input_pipeline
from aggnets_jax.main import main


@pytest.fixture(scope="module", autouse=True)
def small():
    """Data sets of few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_pipeline, "_IMAGES", {"cifar10": 24, "imagenet2012": 8})
        input_pipeline.data_folder.cache_clear()
        yield
        input_pipeline.data_folder.cache_clear()


def _describe(name, **changes):
    config = config_lib.resolve({"data": {"name": name, **changes}}).data
    config.data_dir = input_pipeline.data_folder(name)
    return data.describe(config)


def _rows(tmp_path, *arguments):
    file = tmp_path / "rows.json"
    assert main(["benchmark", *arguments, "--seconds=0.05", "--repeats=3", f"--json={file}"]) == 0
    return json.loads(file.read_text())["rows"]


@pytest.mark.slow
def test_images_of_cifar_live_on_the_devices_or_are_streamed(tmp_path):
    info = _describe("cifar10")
    assert (info.num_train, info.num_classes, info.resident) == (24, 10, True)
    assert info.mean == data.dataset_info.NORMALISATION["cifar10"][0]
    rows = _rows(
        tmp_path, "--models=sparsenet40_k12", "--modes=input,input_streamed", "--batch_size=8"
    )
    assert [row["mode"] for row in rows] == ["input", "input_streamed"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(8e3 / row["ms"])
        assert row["macs"] is row["mfu"] is row["temp_mb"] is None


@pytest.mark.slow
def test_larger_images_are_decoded_and_resized(tmp_path):
    info = _describe("imagenet2012", image_size=64)
    assert (info.num_train, info.num_classes, info.resident) == (8, 1000, False)
    assert info.image_shape == (64, 64, 3)
    arguments = ("--models=resnet50", "--modes=input", "--image_size=64", "--batch_size=4")
    (row,) = _rows(tmp_path, *arguments)
    assert row["image"] == "64x64x3"
    assert row["images_per_second"] > 0


def test_photographs_have_the_average_length_of_imagenet_s():
    from aggnets_jax.data.tf_runtime import import_tensorflow

    tf = import_tensorflow()
    image = input_pipeline.photograph(np.random.default_rng(0))
    length = len(tf.io.encode_jpeg(image).numpy())
    assert 90_000 < length < 130_000


@pytest.mark.slow
def test_other_pipelines_read_the_same_images(tmp_path, capsys):
    size, arguments = "--image_size=64", ("--models=resnet50", "--modes=input", "--batch_size=4")
    rows = _rows(tmp_path, *arguments, size, "--against=tf.data")
    first, *others = [row["form"] for row in rows]
    assert first == "default"
    assert others == ["records alone", "without resizing", "tf.data flax", "tf.data big_vision"]
    assert all(row["images_per_second"] > 0 for row in rows)
    flags = ["--seconds=0.05", "--against=tf.data"]
    assert main(["benchmark", *arguments, *flags, "--image_size=32"]) == 2
    assert "--against=tf.data needs images of 64 pixels or more" in capsys.readouterr().err


def test_pipelines_of_examples_give_normalised_parts():
    from aggnets_jax.benchmark import against_tf_data
    from aggnets_jax.data.tf_runtime import import_tensorflow

    tf = import_tensorflow()
    encoded = tf.io.encode_jpeg(input_pipeline.photograph(np.random.default_rng(0)))
    mean, std = (np.array(x) for x in data.dataset_info.NORMALISATION["imagenet"])
    ranges = {
        against_tf_data._big_vision: (-1, 1),
        against_tf_data._flax: ((0 - mean) / std, (1 - mean) / std),
    }
    for pipeline, (low, high) in ranges.items():
        image = pipeline(encoded, 64).numpy()
        assert (image.shape, image.dtype) == ((64, 64, 3), np.float32)
        assert (image.min((0, 1)) >= np.subtract(low, 0.2)).all()  # bicubic overshoots
        assert (image.max((0, 1)) <= np.add(high, 0.2)).all()
        assert np.ptp(image) > 0.5
