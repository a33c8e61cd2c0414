"""Settings and fixtures of all tests: compilation and its cache, the digits, a run."""

import collections
import fcntl
import gc
import os
import shutil
import signal
from pathlib import Path

import pytest

# Set before JAX is imported, here and in the processes that run tests and that tests start: many of
# them compile the same small programs.
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Kept from one call of pytest to the next; `make clean` removes it.
    _CACHE = Path(__file__).parents[1] / "build" / "compiled_tests"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    # Nearly all programs here are small and run a few times: to compile them takes the time. What
    # needs them as users have them takes the fixture `optimised`.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# A background job of a shell inherits SIGINT as ignored, and so would the processes of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that stay; the collector would go through all of them again and again.
gc.set_threshold(100_000, 20, 100)


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        metavar="FOLDER",
        help="folder of golden files for tests/detection/test_golden.py; default tests/golden",
    )
    parser.addoption("--part", metavar="K/N", help="only the K-th of N parts, from 0 on")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Choose a part of the chosen tests; neighbours in a file stay together, as they share data."""
    if part := config.getoption("--part"):
        k, n = map(int, part.split("/"))
        assert 0 <= k < n, part
        before = collections.Counter()
        chunks = collections.defaultdict(list)
        for item in items:
            chunks[item.path, before[item.path] // 10].append(item)
            before[item.path] += 1
        mine = [item for key in sorted(chunks)[k::n] for item in chunks[key]]
        config.hook.pytest_deselected(items=[*{*items} - {*mine}])
        items[:] = mine


@pytest.fixture
def optimised(monkeypatch):
    """Compile the programs of a test, and of its processes, as users have them."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]  # no attribute since 0.12
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Makes a folder by a function, once for all processes that run tests; nobody may change it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name, make):
        folder, done = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def data_dir(made_once):
    """Where the digits are, and nothing else."""
    from aggnets_jax.data.catalog import open_prepared

    return str(made_once("tfds", lambda folder: open_prepared("aggnets_digits", str(folder))))


@pytest.fixture(scope="session")
def scenes_dir(made_once):
    """A few scenes of digits with boxes and masks, as a folder in COCO's format."""
    from aggnets_jax.data.objects.scenes import write_scenes

    def make(folder):
        write_scenes(folder / "scenes", {"train": 10, "test": 6})

    return str(made_once("scenes", make) / "scenes")


@pytest.fixture(scope="session")
def finished_detection(made_once, scenes_dir):
    """The workdir of `tests.tasks.detection_runs.tiny_detection`, trained to its end."""
    pytest.importorskip("pycocotools")
    from aggnets_jax.train import train_and_evaluate
    from tests.tasks.detection_runs import tiny_detection

    def train(folder):
        train_and_evaluate(tiny_detection(scenes_dir), folder / "run")

    return made_once("finished_detection", train) / "run"


@pytest.fixture(scope="session")
def finished_run(made_once, data_dir):
    """The workdir of `tests.runs.tiny_config`, trained to its end; tests that change it copy it."""
    from aggnets_jax.train import train_and_evaluate
    from tests import runs

    def train(folder):
        summary = train_and_evaluate(runs.tiny_config(data_dir), folder / "run")
        assert runs.summary(folder / "run") == summary

    return made_once("finished_run", train) / "run"


@pytest.fixture(scope="session")
def gs_server():
    """A proxy to a server of gs://, and its bucket."""
    from tests import buckets

    with buckets.served("gs") as proxy:
        yield proxy


@pytest.fixture(scope="session")
def s3_server():
    """A proxy to a server of s3://, and its bucket."""
    from tests import buckets

    with buckets.served("s3") as proxy:
        yield proxy


@pytest.fixture(params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def server(request):
    """Each of the servers in turn, well behaved."""
    proxy = request.getfixturevalue(f"{request.param}_server")
    proxy.behave()
    yield proxy
    proxy.behave()


@pytest.fixture
def place(server, request):
    """A URL in a bucket, with nothing there."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"{server.bucket}/{name}"
