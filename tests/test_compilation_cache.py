"""What is compiled once need not be compiled again, in a folder that nobody else may write to."""

import os
import stat

import jax
import pytest

from aggnets_jax import compilation_cache
from tests import runs


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A user's cache folder, and no other place for compiled programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def _train(folder, data_dir, name):
    config = runs.tiny_config(data_dir, total_steps=2, model={"name": "sparsenet10_k4"})
    file = runs.write_config(folder / "tiny.py", config)
    code, out, err = runs.finish(runs.start(f"--config={file}", f"--workdir={folder / name}"))
    assert (code, err) == (0, "")
    return out, runs.summary(folder / name), runs.metrics(folder / name)


def test_the_second_process_compiles_nothing_and_trains_to_the_same_bits(caches, data_dir):
    out, fresh, metrics = _train(caches, data_dir, "fresh")
    assert "step compiled in " in out and "compilation cache" not in out
    assert fresh["compile_seconds_saved"] is None
    out, cached, metrics_again = _train(caches, data_dir, "cached")
    assert "s, from the compilation cache, which saved " in out
    assert cached["compile_seconds_saved"] >= 0
    assert cached["fingerprint"] == fresh["fingerprint"]
    assert cached["final"] == fresh["final"]
    assert metrics_again == metrics
    assert any(file.name.startswith("jit_") for file in _folder(caches).iterdir())


def _folder(caches):
    return caches / "aggnets_jax" / "xla"


def test_the_folder_is_its_users_alone(caches):
    _folder(caches).mkdir(parents=True, mode=0o777)
    compilation_cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(_folder(caches))
    assert stat.S_IMODE(_folder(caches).stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_not_used(caches, capsys, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
    err = capsys.readouterr().err
    assert err == (
        f"warning: compiled programs are not kept: {_folder(caches)} belongs to another user\n"
    )


def test_no_folder_is_told_in_one_line(caches, capsys):
    (caches / "aggnets_jax").write_text("in the way")
    compilation_cache.keep_programs()
    err = capsys.readouterr().err
    assert err.startswith("warning: compiled programs are not kept: ") and err.count("\n") == 1


@pytest.mark.parametrize("folder", ["", "/elsewhere"])
def test_the_environment_says_where_or_nowhere(folder, caches, monkeypatch):
    monkeypatch.setenv(compilation_cache.VARIABLE, folder)
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
    assert list(caches.iterdir()) == []


def test_what_was_used_the_longest_ago_goes_first(caches, monkeypatch):
    _folder(caches).mkdir(parents=True)
    for age, name in enumerate(("new", "read", "old", "older")):
        file = _folder(caches) / name
        file.write_bytes(b"123456789 ")
        os.utime(file, (1e9 - age, 1e9 - (100 if name == "read" else age)))
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 29)
    compilation_cache.keep_programs()
    assert {file.name for file in _folder(caches).iterdir()} == {"new", "read"}
