"""Smaller batches where there is too little memory."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax.benchmark.memory import backing_off
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.memory import OutOfMemory, check_memory


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


def test_smaller_batches_can_be_divided_over_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    tried = []

    def build(size):
        tried.append(size)
        raise OutOfMemory("full")

    with pytest.raises(UserError, match="net: no memory for a batch of 4: full"):
        backing_off(build, 40, "net")
    assert tried == [40, 20, 8, 4]
