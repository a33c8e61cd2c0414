"""Errors that end a command: each has one clear line and an exit code."""

import difflib
import importlib
import re
from collections.abc import Iterable
from pathlib import PurePath
from types import ModuleType

_LISTED = 12  # allowed names that a message lists


class UserError(ValueError):
    """Bad input. The message is one line: the mistake, and the allowed values."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        # A name that the message quotes may contain line breaks.
        super().__init__(" ".join(message.splitlines()))


class Damaged(UserError):
    """A damaged checkpoint at `path`: its content differs from the saved state by `reason`."""

    def __init__(self, path: PurePath, reason: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}")
        self.path = path
        self.reason = reason


class Gone(UserError):
    """A checkpoint at `path` that was there before."""

    def __init__(self, path: PurePath) -> None:
        super().__init__(f"checkpoint {path} is gone: a run that goes on deletes older ones")
        self.path = path


class OtherArrays(UserError):
    """An intact checkpoint at `path` with other arrays than expected; `reason` names them."""

    def __init__(self, path: PurePath, reason: str) -> None:
        super().__init__(
            f"checkpoint {path} is intact, but of another network, precision (JAX_ENABLE_X64) or"
            f" version of aggnets_jax: {reason}"
        )
        self.path = path
        self.reason = reason


class Diverged(RuntimeError):
    """A loss or gradient that became NaN or infinite; the message names the steps."""

    exit_code = 3


class Unsaved(RuntimeError):
    """A final state that could not be saved; the message says why and where the run can resume."""

    exit_code = 74  # EX_IOERR


class LostProcess(RuntimeError):
    """The loss of another process; the same command in all processes resumes from a checkpoint."""

    exit_code = 76  # EX_PROTOCOL


class Stopped(RuntimeError):
    """A stop by a signal, after the state was saved; the same command resumes the run."""

    exit_code = 75  # EX_TEMPFAIL: try again


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name of a kind ("topology") that is not allowed, with the nearest."""
    allowed = sorted(set(allowed))
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
    more = f", ... ({len(allowed)} in all)" if len(allowed) > _LISTED else ""
    listed = ", ".join(allowed[:_LISTED]) or "none"
    return UserError(f"unknown {kind} {name!r}; allowed: {listed}{more}")


def import_optional(name: str, missing: str) -> ModuleType:
    """Import a module of an optional package; raise `UserError` with a message if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(missing) from error


def one_line(message: object) -> str:
    """Return a message, or the message of an error, as one line of at most 300 characters.

    Colours and other codes for terminals, which PyTorch's messages have, are taken out.
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(message))
    text = " ".join(text.split()) or type(message).__name__
    return text if len(text) <= 300 else text[:297] + "..."
