"""Exported programs, run in processes that don't know this package."""

import json
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import create_model, data
from aggnets_jax.errors import UserError
from aggnets_jax.export import FORMATS
from aggnets_jax.export.formats import FUNCTIONS
from aggnets_jax.export.program import make_program
from aggnets_jax.main import main
from aggnets_jax.models import list_families
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.workdir.restore import Restored, restore_network
from tests import runs
from tests.marks import mostly_slow
from tests.models.tiny import TINY
from tests.models.variables import random_variables

# Reads a program in each format and the images, and writes the logits.
FRESH = """
import sys
import numpy as np
form, file, images = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
if form == "stablehlo":
    from jax import export
    logits = export.deserialize(bytearray(open(file, "rb").read())).call(images)
elif form == "savedmodel":
    import tensorflow as tf
    logits = tf.saved_model.load(file).signatures["serving_default"](tf.constant(images))["logits"]
elif form == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images})
else:
    import tensorflow as tf
    interpreter = tf.lite.Interpreter(file)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    classify = interpreter.get_signature_runner()
    logits = classify(images=images)["logits"]
assert not any(name.startswith("aggnets_jax") for name in sys.modules)
np.save(sys.argv[4], np.asarray(logits))
"""


def in_a_fresh_process(form, file, images, folder):
    np.save(folder / "images.npy", images)
    arguments = [form, file, folder / "images.npy", folder / "logits.npy"]
    command = [sys.executable, "-c", FRESH, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return np.load(folder / "logits.npy")


def relative_difference(actual, expected):
    return np.max(np.abs(actual - np.asarray(expected))) / np.max(np.abs(expected))


def stored_images(shape, count):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def restored(family):
    """A tiny network of a family with any weights, as if from a run."""
    arguments, size = TINY[family]
    config = config_lib.resolve({"model": {"name": family, "args": arguments}})
    info = runs.DATASET
    changes = {"image_shape": (size, size, 3), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2)}
    info = data.DatasetInfo(**{**vars(info), **changes})
    model = create_model(family, info.num_classes, **arguments)
    return Restored(7, config, info, model, random_variables(model, size, np.float32))


@pytest.fixture(scope="module")
def trained(finished_run):
    return restore_network(finished_run, "latest", replicated(make_mesh()))


def expected_logits(restored, images):
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    images = preprocess({"image": images}, train=False)
    return jax.jit(restored.model.apply)(restored.variables, images)[0]


def facts_of(form, file):
    if form in ("stablehlo", "tflite"):
        return json.loads(zipfile.ZipFile(file).read("metadata.json"))
    if form == "savedmodel":
        return json.loads((file / "assets.extra" / "metadata.json").read_text())
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return json.loads(model.get_modelmeta().custom_metadata_map["aggnets_jax"])


def marked(form):
    return pytest.param(form, marks=() if form == "stablehlo" else pytest.mark.slow)


@pytest.mark.parametrize("form", [marked(form) for form in FORMATS])
def test_a_run_is_exported_with_its_facts(form, trained, finished_run, tmp_path, capsys):
    if form == "onnx":
        pytest.importorskip("jax2onnx")
    file = tmp_path / "digits"
    arguments = [f"--workdir={finished_run}", f"--format={form}", f"--output={file}"]
    assert main(["export", *arguments, "--fold_batch_norm"]) == 0
    assert f"{file} has the network of {finished_run} after step 12" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == [file]

    images = stored_images((8, 8, 1), 5)  # another number than the command compares
    logits = in_a_fresh_process(form, file, images, tmp_path)
    assert logits.shape == (5, 10)
    assert relative_difference(logits, expected_logits(trained, images)) < 1e-5

    facts = facts_of(form, file)
    assert facts["network"] == "sparsenet10_k4"
    assert facts["step"] == 12
    assert facts["class_names"] == [str(n) for n in range(10)]
    assert facts["input"] == {"name": "images", "dtype": "uint8", "shape": ["batch", 8, 8, 1]}
    assert facts["preprocessing"] == {
        "colours": "grey",
        "resize_short_side": None,
        "size": [8, 8],
        "normalised_inside": {"mean": [0.30543369], "std": [0.37595716]},
    }
    assert facts["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("form", [marked(form) for form in FORMATS])
@mostly_slow("name", ["sm [1] é", "a*", "a?", "a\\b"], quick=(0,))
def test_names_that_are_patterns(form, name, trained, finished_run, tmp_path):
    """TensorFlow does not find what it wrote to "sm [1]"."""
    if form == "onnx":
        pytest.importorskip("jax2onnx")
    file = tmp_path / name / name
    arguments = [f"--workdir={finished_run}", f"--format={form}", f"--output={file}"]
    assert main(["export", *arguments]) == 0
    assert [*file.parent.iterdir()] == [file]
    assert facts_of(form, file)["step"] == 12
    images = stored_images((8, 8, 1), 2)
    file.rename(tmp_path / "plain")
    logits = FUNCTIONS[form].run(tmp_path / "plain", images)
    assert relative_difference(logits, expected_logits(trained, images)) < 1e-5


def test_every_family_is_exported():
    assert {*TINY} == {*list_families()}


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_networks_of_every_family_are_the_same_program(family, tmp_path):
    network = restored(family)
    images = stored_images(network.info.image_shape, 3)
    expected = expected_logits(network, images)
    for fold in (False, True):
        program = make_program(network, fold=fold)
        file = tmp_path / f"{family}-{fold}.stablehlo"
        FUNCTIONS["stablehlo"].write(program, file)
        logits = FUNCTIONS["stablehlo"].run(file, images)
        assert relative_difference(logits, expected) < 1e-5, fold


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "savedmodel", "tflite"])
@pytest.mark.parametrize("family", TINY)
def test_networks_of_every_family_in_other_formats(family, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("jax2onnx")
    network = restored(family)
    images = stored_images(network.info.image_shape, 3)
    file = tmp_path / family
    FUNCTIONS[form].write(make_program(network, fold=True), file)
    logits = FUNCTIONS[form].run(file, images)
    assert relative_difference(logits, expected_logits(network, images)) < 1e-5


def test_what_can_not_be_exported(finished_run, tmp_path, capsys):
    there = tmp_path / "there.onnx"
    there.write_text("anything")
    for workdir, form, output, message in (
        (finished_run, "onxx", "new", "unknown format 'onxx'; nearest: onnx"),
        (finished_run, "onnx", there, f"{there} exists already; give a new name"),
        (tmp_path / "none", "onnx", "new", "there is no workdir"),
    ):
        arguments = [f"--workdir={workdir}", f"--format={form}", f"--output={tmp_path / output}"]
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [there]
    other = restored("sparsenet_bc")
    for task in ("detection", "multilabel"):
        other.config.task = task
        with pytest.raises(UserError, match=f"export is for classification, .* a run of {task}"):
            make_program(other)


def test_a_missing_package_is_one_line(monkeypatch, finished_run, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    output = tmp_path / "new.onnx"
    arguments = [f"--workdir={finished_run}", "--format=onnx", f"--output={output}"]
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert "this format needs jax2onnx" in error
    assert "pip install 'aggnets-jax[onnx]'" in error
    assert not output.exists()
