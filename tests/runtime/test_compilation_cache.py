"""Programs are compiled once, and kept in a folder that nobody else may write to."""

import os
import random
import stat

import jax
import pytest

from aggnets_jax.runtime import compilation
from aggnets_jax.train import train_and_evaluate
from tests import runs


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A user's cache folder, and no other place for compiled programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compilation.VARIABLE, raising=False)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


# A number of this process in the program, so that no test, and no earlier call of pytest, kept it.
OF_ITS_OWN = {
    "total_steps": 2,
    "batch_size": 23,
    "weight_decay": 1e-4 * random.random(),
    "model": {"name": "sparsenet10_k4"},
}


def _assert_same_run(summary, workdir, expected, expected_workdir):
    assert summary["fingerprint"] == expected["fingerprint"]
    assert summary["final"] == expected["final"]
    assert runs.metrics(workdir) == runs.metrics(expected_workdir)


@pytest.mark.slow
def test_a_run_says_whether_its_step_was_kept_and_trains_to_the_same_bits(
    data_dir, tmp_path, capsys
):
    config = runs.tiny_config(data_dir, **OF_ITS_OWN)
    fresh = train_and_evaluate(config, tmp_path / "fresh")
    out = capsys.readouterr().out
    assert "step compiled in " in out and "compilation cache" not in out
    assert fresh["compile_seconds_saved"] is None
    kept = train_and_evaluate(config, tmp_path / "kept")
    assert "s, from the compilation cache, which saved " in capsys.readouterr().out
    assert kept["compile_seconds_saved"] >= 0
    _assert_same_run(kept, tmp_path / "kept", fresh, tmp_path / "fresh")


@pytest.mark.slow
def test_processes_keep_programs_for_those_after_them(caches, data_dir):
    file = runs.write_config(caches / "tiny.py", runs.tiny_config(data_dir, **OF_ITS_OWN))
    errors, summaries = {}, {}
    for name in ("fresh", "kept", "damaged"):
        if name == "damaged":
            for program in _folder(caches).glob("jit_*"):
                os.truncate(program, 1000)
        process = runs.start(f"--config={file}", f"--workdir={caches / name}")
        code, _, errors[name] = runs.finish(process)
        assert code == 0, errors
        summaries[name] = runs.summary(caches / name)
        _assert_same_run(summaries[name], caches / name, summaries["fresh"], caches / "fresh")
    saved = {name: summary["compile_seconds_saved"] for name, summary in summaries.items()}
    assert saved["kept"] is not None
    assert saved["fresh"] is saved["damaged"] is None
    assert errors["fresh"] == errors["kept"] == ""
    lines = errors["damaged"].splitlines()
    assert lines
    for line in lines:
        assert line.startswith("warning: Error reading persistent compilation cache entry")


def _folder(caches):
    return caches / "aggnets_jax" / "xla"


def test_the_folder_is_its_users_alone(caches):
    _folder(caches).mkdir(parents=True, mode=0o777)
    compilation.enable_program_cache()
    assert jax.config.jax_compilation_cache_dir == str(_folder(caches))
    assert stat.S_IMODE(_folder(caches).stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_not_used(caches, capsys, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    before = jax.config.jax_compilation_cache_dir
    compilation.enable_program_cache()
    assert jax.config.jax_compilation_cache_dir == before
    err = capsys.readouterr().err
    assert err == (
        f"warning: compiled programs are not kept: {_folder(caches)} belongs to another user\n"
    )


def test_no_folder_is_told_in_one_line(caches, capsys):
    (caches / "aggnets_jax").write_text("in the way")
    compilation.enable_program_cache()
    err = capsys.readouterr().err
    assert err.startswith("warning: compiled programs are not kept: ") and err.count("\n") == 1


@pytest.mark.parametrize("folder", ["", "/elsewhere"])
def test_the_environment_says_where_or_nowhere(folder, caches, monkeypatch):
    monkeypatch.setenv(compilation.VARIABLE, folder)
    before = jax.config.jax_compilation_cache_dir
    compilation.enable_program_cache()
    assert jax.config.jax_compilation_cache_dir == before
    assert list(caches.iterdir()) == []


def test_what_was_used_the_longest_ago_goes_first(caches, monkeypatch):
    _folder(caches).mkdir(parents=True)
    for age, name in enumerate(("new", "read", "old", "older")):
        file = _folder(caches) / name
        file.write_bytes(b"123456789 ")
        os.utime(file, (1e9 - age, 1e9 - (100 if name == "read" else age)))
    monkeypatch.setattr(compilation, "MAX_BYTES", 29)
    compilation.enable_program_cache()
    assert {file.name for file in _folder(caches).iterdir()} == {"new", "read"}
