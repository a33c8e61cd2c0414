"""Memory of programs: too little of it is told in one line, before a program runs."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax.cli import exit_code
from aggnets_jax.runtime import memory
from aggnets_jax.runtime.compilation import allocated_bytes
from aggnets_jax.runtime.memory import OutOfMemory, check_memory
from aggnets_jax.train import train_and_evaluate
from tests import runs


def _compiled():
    x = jax.ShapeDtypeStruct((1024, 256), jnp.float32)
    return jax.jit(lambda x: x + 1).lower(x).compile()


def test_arguments_and_results_are_counted():
    megabyte = 1024 * 1024
    assert 2 * megabyte <= allocated_bytes(_compiled()) <= 2.1 * megabyte


def test_a_program_that_does_not_fit_is_refused_before_it_runs(monkeypatch):
    check_memory(_compiled())
    needed = 2.1e6 * jax.local_device_count()
    monkeypatch.setattr(memory, "available_bytes", lambda: needed * 0.7)
    with pytest.raises(OutOfMemory, match=r"0\.0 GB needed, 0\.0 GB free"):
        check_memory(_compiled())
    check_memory(_compiled(), placed=True)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)  # where nobody says
    check_memory(_compiled())


def test_a_step_that_does_not_fit_ends_with_one_line(data_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    config = runs.tiny_config(data_dir, total_steps=2)
    assert exit_code(lambda: train_and_evaluate(config, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "too little memory" in error and "accumulation_steps" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_words_of_xla_and_torch_are_known():
    for text in ("RESOURCE_EXHAUSTED: Out of memory", "CUDA out of memory. Tried to allocate"):
        assert memory.is_out_of_memory(RuntimeError(text))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("INTERNAL: no"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def test_an_error_without_words_is_named(capsys):
    def program():
        raise MemoryError

    assert exit_code(program) == 2
    assert "too little memory: MemoryError; smaller" in capsys.readouterr().err
