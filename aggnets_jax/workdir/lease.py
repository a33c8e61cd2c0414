"""The lease of a workdir in a bucket, in the place of a lock.

The objects `.lease/1`, `.lease/2`, ... are created in this order, each only if it does not exist,
and the creator of the newest one holds the lease. The holder creates the next one every few
seconds. If an object stays the newest for a minute, its process has ended, and others may take the
next number. Clocks of different machines are never compared.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

from etils import epath

from aggnets_jax.buckets import denial, file_system, storage
from aggnets_jax.errors import UserError

LEASE = ".lease"
BEAT = 10.0
"""Seconds between two objects of the holder."""
EXPIRES = 60.0
"""Seconds without a new object after which the lease is free."""


class Lease(contextlib.AbstractContextManager):
    """The right to write to a workdir, which one process has at a time.

    A process that loses it, because it was suspended or could not reach the bucket for a minute
    while another one started, ends at once, with a line and exit code 2. The newest
    object stays when the context ends, but not with `keep=False`.

    Raises:
      UserError: if another process has the lease, or the bucket can't be written to.
      OSError: if the storage does not answer.
    """

    def __init__(self, workdir: epath.Path) -> None:
        self._workdir = workdir
        self._folder = f"{workdir}/{LEASE}"
        self._fs = file_system(workdir)
        self._self = {"token": uuid.uuid4().hex, **_process()}
        self._number = 0
        self._ended = threading.Event()
        self.keep = True

    def __enter__(self) -> Self:
        with storage(self._workdir):
            numbers = self._numbers()
            newest = numbers[-1] if numbers else 0
            if newest and not self._is_free(newest):
                # Its process may have ended meanwhile.
                numbers = self._numbers()
                newest = numbers[-1] if numbers else 0
                if newest and not self._read(newest).get("released"):
                    raise self._in_use(newest)
            try:
                taken = self._create(newest + 1)
            except Exception as error:
                if reason := denial(error):
                    raise UserError(f"workdir {self._workdir} can't be used: {reason}") from error
                raise
            if not taken:
                raise self._in_use(newest + 1)
            self._delete(numbers)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        # The run must not end with the error of a storage that is gone.
        with contextlib.suppress(OSError), storage(self._workdir):
            if self.keep:
                self._create(self._number + 1, released=True)
            self._delete(number for number in self._numbers() if number < self._number)
            if not self.keep:
                self._delete([self._number])

    def _numbers(self) -> list[int]:
        """Return the numbers of all objects, sorted."""
        try:
            names = self._fs.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        texts = (name.rstrip("/").rpartition("/")[2] for name in names)
        return sorted(int(text) for text in texts if text.isdecimal())

    def _read(self, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self._fs.cat_file(f"{self._folder}/{number}")))
        except (FileNotFoundError, TypeError, ValueError):
            return {}

    def _create(self, number: int, **more: Any) -> bool:
        """Create an object; return whether it is this process's."""
        content = json.dumps({**self._self, **more}).encode()
        try:
            self._fs.pipe_file(f"{self._folder}/{number}", content, mode="create")
        except FileExistsError:
            # The answer to a first request may have been lost.
            if self._read(number).get("token") != self._self["token"]:
                return False
        self._number = number
        return True

    def _delete(self, numbers: Any) -> None:
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._folder}/{number}")

    def _is_free(self, number: int) -> bool:
        """Return whether an object is of a process that has ended; wait for that if need be."""
        holder = self._read(number)
        if holder.get("released"):
            return True
        if (ended := _has_ended(holder)) is not None:
            return ended
        print(
            f"waiting {EXPIRES:.0f} s for a sign of the process that last used {self._workdir}"
            f" ({_name(holder)})",
            flush=True,
        )
        until = time.monotonic() + EXPIRES
        while time.monotonic() < until:
            time.sleep(1)
            if self._numbers()[-1:] != [number]:
                return False
        return True

    def _in_use(self, number: int) -> UserError:
        name = _name(self._read(number))
        return UserError(f"workdir {self._workdir} is in use by another process ({name})")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                before = self._number
                # The next holder deletes older objects, so this number may be free again.
                is_mine = self._create(before + 1)
                newest = max(self._numbers(), default=before + 1)
                if is_mine and newest == before + 1:
                    self._delete([before])
                    continue
                self._delete([before, before + 1] if is_mine else [before])
            except Exception:  # clients raise any; without beats, another process would take over
                continue  # a later beat may come through
            print(f"error: {self._in_use(newest)}, which took it over", file=sys.stderr)
            sys.stderr.flush()
            os._exit(UserError.exit_code)


def _process() -> dict[str, Any]:
    """Describe this process so that others on the same machine can check whether it has ended."""
    described: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    with contextlib.suppress(OSError):  # not Linux
        described["machine"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        described["pids"] = os.readlink("/proc/self/ns/pid")
        described["start"] = _start(os.getpid())
    return described


def _start(pid: object) -> str | None:
    """Return when a process of this machine was started; None if it has ended."""
    try:
        # The name, in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _has_ended(holder: dict[str, Any]) -> bool | None:
    """Return whether a process has ended; None if it is not of this machine."""
    here = _process()
    if "machine" not in here or any(holder.get(key) != here[key] for key in ("machine", "pids")):
        return None
    return _start(holder.get("pid")) != holder.get("start")


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
