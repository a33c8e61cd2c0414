"""The lease of a workdir in a bucket: one process at a time, whatever ends it."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from aggnets_jax.buckets import file_system
from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path
from aggnets_jax.workdir import lease as lease_module
from aggnets_jax.workdir.lease import Lease
from tests import buckets


def put(path, number, **content):
    file_system(path).pipe_file(f"{path}/.lease/{number}", json.dumps(content).encode())


def names(place):
    return sorted(buckets.objects(place))


def test_one_process_at_a_time(place):
    path = any_path(place)
    with (
        Lease(path),
        pytest.raises(UserError, match=rf"by another process \(process {os.getpid()} on"),
    ):
        Lease(path).__enter__()
    with Lease(path):
        assert names(place) == [".lease/3"]


def test_nothing_stays_of_a_workdir_that_was_not_written(place):
    with Lease(any_path(place)) as lease:
        lease.keep = False
    assert names(place) == []


def test_a_process_of_this_machine_that_was_killed_has_none(place):
    path = any_path(place)
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], text=True, capture_output=True
    )
    put(path, 7, **{**lease_module._process(), "pid": int(process.stdout), "start": "1"})
    began = time.monotonic()
    with Lease(path):
        assert names(place) == [".lease/8"]
    assert time.monotonic() - began < 10


def test_a_process_elsewhere_is_given_time(place, monkeypatch, capsys):
    monkeypatch.setattr(lease_module, "EXPIRES", 2.0)
    path = any_path(place)
    put(path, 3, host="elsewhere", pid=7)
    with Lease(path):
        assert names(place) == [".lease/4"]
    assert "waiting 2 s for a sign of the process that last used" in capsys.readouterr().out


def test_a_process_elsewhere_that_gives_a_sign_has_it(place, monkeypatch):
    monkeypatch.setattr(lease_module, "EXPIRES", 20.0)
    path = any_path(place)
    put(path, 3, host="elsewhere", pid=7)
    sign = threading.Timer(1, put, (path, 4), {"host": "elsewhere", "pid": 7})
    sign.start()
    with pytest.raises(UserError, match=r"in use by another process \(process 7 on elsewhere"):
        Lease(path).__enter__()
    sign.join()
    assert names(place) == [".lease/3", ".lease/4"]


def test_a_process_elsewhere_that_ends_meanwhile_has_it_no_more(place, monkeypatch):
    monkeypatch.setattr(lease_module, "EXPIRES", 20.0)
    path = any_path(place)
    put(path, 3, host="elsewhere", pid=7)
    threading.Timer(1, put, (path, 4), {"host": "elsewhere", "pid": 7, "released": True}).start()
    with Lease(path):
        assert names(place) == [".lease/5"]


@pytest.mark.parametrize("deleted", [False, True])
def test_it_is_renewed_and_the_loser_ends(deleted, place, monkeypatch, capsys):
    """Also when its next number is free again, because the winner has gone on."""
    ended = []
    monkeypatch.setattr(lease_module, "BEAT", 0.1)
    path = any_path(place)
    lease = Lease(path)
    # In place of the end of the process, which happens in a thread.
    monkeypatch.setattr(
        lease_module.os, "_exit", lambda code: (ended.append(code), lease._ended.set())
    )
    with lease:
        first = lease._number
        while lease._number < first + 3:
            time.sleep(0.05)
        for number in (5,) if deleted else (1, 2):
            put(path, lease._number + number, host="elsewhere", pid=7)
        lease._thread.join(timeout=20)
    assert ended == [2]
    assert (
        "is in use by another process (process 7 on elsewhere), which took"
        in capsys.readouterr().err
    )


def test_a_client_that_fails_in_any_way_ends_no_beats(place, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT", 0.1)
    lease = Lease(any_path(place))
    numbers, errors = lease._numbers, iter([ValueError("no list"), TypeError("no number")])

    def failing():
        if error := next(errors, None):
            raise error
        return numbers()

    with lease:
        monkeypatch.setattr(lease, "_numbers", failing)
        first = lease._number
        while lease._number < first + 5:
            assert lease._thread.is_alive()
            time.sleep(0.05)


def test_an_answer_that_is_lost_loses_no_lease(place, server):
    """The server does what it is asked, and the answer gets lost: the client asks again."""
    lease = Lease(any_path(place))
    with lease:
        lease._ended.set()
        lease._thread.join()
        number = lease._number + 1
        assert lease._create(number)
        assert lease._create(number)


def test_without_permission_to_write(place, server):
    path = any_path(place)
    # The name of an object is in the path in s3://, and in the body in gs://.
    server.refuse = lambda path: 403 if re.search(r"^/upload/|/\.lease/\d+$", path) else None
    with pytest.raises(UserError, match="can't be used: "):
        Lease(path).__enter__()
