"""Memory of programs, and smaller batches where there is too little."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax.benchmark import memory
from aggnets_jax.benchmark.memory import OutOfMemory, backing_off, check_memory
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.compilation import allocated_bytes


def _compiled():
    x = jax.ShapeDtypeStruct((1024, 256), jnp.float32)
    return jax.jit(lambda x: x + 1).lower(x).compile()


def test_arguments_and_results_are_counted():
    megabyte = 1024 * 1024
    assert 2 * megabyte <= allocated_bytes(_compiled()) <= 2.1 * megabyte


def test_what_does_not_fit_is_refused_before_it_runs(monkeypatch):
    check_memory(_compiled())
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    with pytest.raises(OutOfMemory, match=r"0\.0 GB needed, 0\.0 GB free"):
        check_memory(_compiled())
    monkeypatch.setattr(memory, "available_bytes", lambda: None)  # where nobody says
    check_memory(_compiled())


def test_a_program_for_more_memory_than_any_machine_has_backs_off(capsys):
    def build(size):
        x = jax.ShapeDtypeStruct((max(size, 10), 2**40), jnp.float32)
        check_memory(jax.jit(lambda x: x[:, 0] + 1).lower(x).compile())

    with pytest.raises(UserError, match=r"net: no memory for a batch of 1: \d+\.\d GB needed"):
        backing_off(build, 4, "net")
    printed = capsys.readouterr().out.splitlines()
    assert [line[:38] for line in printed] == [
        "net: no memory for a batch of 4, now 2",
        "net: no memory for a batch of 2, now 1",
    ]


def test_xla_s_and_torch_s_words_are_known():
    for text in ("RESOURCE_EXHAUSTED: Out of memory", "CUDA out of memory. Tried to allocate"):
        assert memory.is_out_of_memory(RuntimeError(text))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("INTERNAL: no"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))
