"""Profiler traces that fail: one warning, and the run goes on."""

import errno
import os

import jax
import pytest

from aggnets_jax.workdir.profiler import Profile


@pytest.mark.parametrize("fails", ["start_trace", "stop_trace"])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_trace_that_fails_is_told_and_the_run_goes_on(
    fails, at_the_end, monkeypatch, tmp_path, capsys
):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, no_space if name == fails else lambda *_: None)
    with Profile((2, 3), tmp_path / "profile") as profile:
        for step in range(1, 3 if at_the_end else 5):
            profile.before(step)
            profile.after(step, None)
    told = f"warning: no profile is written to {tmp_path}/profile: [Errno 28] No space left"
    assert capsys.readouterr().err.splitlines() == [f"{told} on device"]
