"""What all tests share: one compilation cache a session, and the digits."""

import os
import tempfile

import pytest

# Set before JAX is imported, here and in the processes that run tests and that tests start: many of
# them compile the same small programs.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="aggnets_jax_compilation_cache_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the digits get prepared, and nothing else."""
    return str(tmp_path_factory.mktemp("tfds"))
