"""Commands and the package import nothing slow that they can do without."""

import re
import subprocess
import sys

import ml_collections
import pytest

import aggnets_jax
from aggnets_jax.config import resolve
from aggnets_jax.data import describe
from tests import runs

SLOW = {
    *("clu", "flax", "jax", "matplotlib", "orbax", "scipy", "sklearn"),
    *("tensorflow", "tensorflow_datasets"),
}


def slow_imports(*arguments):
    """The slow packages that Python imports, and what it prints."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, arguments)],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = re.findall(r"^import time:.*\| *(\w+)", process.stderr, re.MULTILINE)
    assert "aggnets_jax" in modules
    return SLOW & {*modules}, process.stdout


def test_the_package_imports_nothing_slow():
    assert slow_imports("-c", "import aggnets_jax")[0] == set()


def test_models_import_jax_and_flax_alone():
    code = "import aggnets_jax; print(aggnets_jax.create_model('resnet50').num_classes)"
    imported, out = slow_imports("-c", code)
    assert imported <= {"flax", "jax"}
    assert out == "1000\n"


@pytest.mark.slow
def test_modules_are_imported_where_system_calls_of_unix_are_missing():
    program = """
import signal, sys
sys.modules["fcntl"] = None
del signal.SIGHUP
import aggnets_jax.main, aggnets_jax.commands, aggnets_jax.runtime.processes
import aggnets_jax.train, aggnets_jax.workdir.folder
print(aggnets_jax.create_model("sparsenet10_k4").num_classes, aggnets_jax.workdir.folder.fcntl)
"""
    assert slow_imports("-c", program)[1] == "10 None\n"


def test_public_names_are_there():
    public = {}
    exec("from aggnets_jax import *", public)
    assert {*aggnets_jax.__all__} <= {*public} & {*dir(aggnets_jax)}
    assert aggnets_jax.models.create_model is aggnets_jax.create_model
    with pytest.raises(AttributeError, match="module 'aggnets_jax' has no attribute 'create_modl'"):
        aggnets_jax.create_modl  # noqa: B018


def test_digits_are_trained_without_tensorflow(data_dir, tmp_path):
    config = runs.tiny_config(data_dir, total_steps=1)
    describe(
        resolve(ml_collections.ConfigDict(config)).data
    )  # which prepares them, with TensorFlow
    file = runs.write_config(tmp_path / "digits.py", config)
    imported, _ = slow_imports(
        *("-m", "aggnets_jax", "train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    )
    assert "jax" in imported
    assert not imported & {"matplotlib", "scipy", "sklearn", "tensorflow"}
    assert runs.summary(tmp_path / "run")["versions"]["tensorflow"]
