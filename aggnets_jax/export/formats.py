"""The formats of exported programs: how each is written, with its facts, and run.

Facts are JSON. A StableHLO program and a TFLite model are followed by a zip archive with
`metadata.json`, as TFLite's files have it; readers of the program do not see it.
"""

import importlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.extend import core, mlir

from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.export.plain import pad_by_concatenation, plain, pool_planes, sum_by_axis
from aggnets_jax.export.program import IMAGES, LOGITS, Program

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FACTS = "metadata.json"
STABLEHLO = "1.0.0"
"""Version of StableHLO for TensorFlow and TFLite; every version has all that networks need."""
ONNX_KEY = "aggnets_jax"
_FOR_ONNX = {
    # jax2onnx pads no symbolic batch, and pools maps along four axes, which ONNX Runtime can't.
    "pad": pad_by_concatenation,
    "reduce_window_max": pool_planes,
    # ONNX Runtime adds up all values of a map one by one.
    "reduce_sum": sum_by_axis,
}


def write_stablehlo(program: Program, path: Path) -> None:
    """Write a program that `jax.export.deserialize` reads, for all of JAX's platforms."""
    exported = _exported(program)
    path.write_bytes(exported.serialize())
    facts = {
        "calling_convention_version": exported.calling_convention_version,
        "platforms": exported.platforms,
    }
    _append_facts(path, {**program.facts, **facts})


def run_stablehlo(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a file of `write_stablehlo`."""
    return np.asarray(export.deserialize(bytearray(path.read_bytes())).call(images))


def write_savedmodel(program: Program, path: Path) -> None:
    """Write a folder that `tf.saved_model.load` reads, with the signature "serving_default"."""
    tf, (_, *sides) = import_tensorflow(), program.images.shape
    xla = importlib.import_module("tensorflow.compiler.tf2xla.python.xla")
    exported = _exported(program)
    # JAX's own bridge, jax2tf, writes a StableHLO that TensorFlow can't read yet.
    module = mlir.serialize_portable_artifact(exported.mlir_module(), STABLEHLO)
    classes = exported.out_avals[0].shape[-1]

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        (logits,) = xla.call_module(
            [images],
            version=exported.calling_convention_version,
            module=module,
            Tout=[tf.float32],
            Sout=[tf.TensorShape((None, classes))],
            platforms=[platform.upper() for platform in exported.platforms],
            use_shardy_partitioner=jax.config.jax_use_shardy_partitioner,  # type: ignore[attr-defined]
        )
        return {LOGITS: logits}

    saved = tf.Module()
    signature = [tf.TensorSpec((None, *sides), tf.uint8, name=IMAGES)]
    saved.classify = tf.function(classify, input_signature=signature, autograph=False)
    tf.saved_model.save(saved, str(path), signatures=saved.classify)
    # TensorFlow's folder for files that it does not read.
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / FACTS).write_text(json.dumps(program.facts, indent=2))


def run_savedmodel(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a folder of `write_savedmodel`."""
    tf = import_tensorflow()
    classify = tf.saved_model.load(str(path)).signatures["serving_default"]
    return classify(tf.constant(images))[LOGITS].numpy()


def write_onnx(program: Program, path: Path) -> None:
    """Write a model that ONNX Runtime reads."""
    install = "pip install 'aggnets-jax[onnx]' && pip install --no-deps jax2onnx"
    jax2onnx = _module("jax2onnx", install)
    function = plain(program.function, replaced=_FOR_ONNX)
    # Traced here, because jax2onnx replaces functions of JAX while it traces.
    traced = jax.make_jaxpr(function)(program.images)
    model = jax2onnx.to_onnx(
        core.jaxpr_as_fun(traced),
        [program.images],
        model_name=program.facts["network"],
        input_names=[IMAGES],
        output_names=[LOGITS],
    )
    model.metadata_props.add(key=ONNX_KEY, value=json.dumps(program.facts))
    path.write_bytes(model.SerializeToString())


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a file of `write_onnx`."""
    runtime = _module("onnxruntime", "pip install 'aggnets-jax[onnx]'")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([LOGITS], {IMAGES: images})[0]


def write_tflite(program: Program, path: Path) -> None:
    """Write a model that TFLite's interpreters read."""
    tf = import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        write_savedmodel(program, Path(folder, "saved"))
        converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder, "saved")))
        path.write_bytes(converter.convert())
    _append_facts(path, program.facts)


def run_tflite(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a file of `write_tflite`."""
    tf = import_tensorflow()
    with warnings.catch_warnings(action="ignore"):  # it warns of its successor, another package
        interpreter = tf.lite.Interpreter(str(path))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


class Format(NamedTuple):
    """A format of exported programs.

    Attributes:
      write: writes a program to a new file, or folder, on this machine.
      run: computes the logits of images from it.
    """

    write: Callable[[Program, Path], None]
    run: Callable[[Path, np.ndarray], np.ndarray]


FUNCTIONS = {
    "stablehlo": Format(write_stablehlo, run_stablehlo),
    "savedmodel": Format(write_savedmodel, run_savedmodel),
    "onnx": Format(write_onnx, run_onnx),
    "tflite": Format(write_tflite, run_tflite),
}


def _exported(program: Program) -> export.Exported:
    return export.export(jax.jit(program.function), platforms=PLATFORMS)(program.images)


def _append_facts(path: Path, facts: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, json.dumps(facts, indent=2))


def _module(name: str, remedy: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this format needs {name} ({one_line(error)}): {remedy}") from error
