"""Why a command ends early: one clear line each, and the exit code of the process."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Bad input, told in one line: what was wrong and what is allowed."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        # Names in it may have line breaks.
        super().__init__(" ".join(message.splitlines()))


class Damaged(UserError):
    """A checkpoint does not hold what was saved; says which one, and how that was found.

    Attributes:
      path: of the checkpoint.
      reason: how it was found.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}")
        self.path = path
        self.reason = reason


class OtherArrays(Damaged):
    """A checkpoint's arrays have other names, dtypes or shapes than they must have."""


class Diverged(RuntimeError):
    """The loss or a gradient became NaN or infinite; says at which steps."""

    exit_code = 3


class Unsaved(RuntimeError):
    """What the run ends with could not be saved; says why, and from which step it can go on."""

    exit_code = 74  # EX_IOERR


class LostProcess(RuntimeError):
    """Another of several processes is gone; the same command, in all, goes on from a checkpoint."""

    exit_code = 76  # EX_PROTOCOL


class Stopped(RuntimeError):
    """A signal asked the run to stop; it has saved its state and goes on with the same command."""

    exit_code = 75  # EX_TEMPFAIL: try again


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the allowed ones.

    Args:
      kind: what is named, for example "topology".
      name: the name that was given.
      allowed: every name that would have been accepted.
    """
    allowed = sorted(set(allowed))
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
    if len(allowed) > 12:
        return UserError(f"unknown {kind} {name!r}; none of the {len(allowed)} there are is near")
    return UserError(f"unknown {kind} {name!r}; allowed: {', '.join(allowed) or 'none'}")


def one_line(message: object) -> str:
    """A message, or what an error says, folded to one line of at most 300 characters."""
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= 300 else text[:297] + "..."
