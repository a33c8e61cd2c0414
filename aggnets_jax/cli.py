"""Command lines of all programs: parsing, errors as one line, and exit codes."""

import argparse
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging

from aggnets_jax.buckets import is_storage_error
from aggnets_jax.errors import Diverged, LostProcess, Stopped, Unsaved, UserError, one_line, unknown
from aggnets_jax.runtime.interrupts import ignore_signals
from aggnets_jax.runtime.streams import BROKEN_PIPE

_MARK = "\ufeff"


class Parser(argparse.ArgumentParser):
    """Parser that reports a mistake as a `UserError`, and never abbreviates flags."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        self._words: Sequence[str] = ()
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> None:
        """Raise `UserError`; a flag that is missing may be there with a mistake in its name."""
        for word in self._words if "are required" in message else ():
            if word == "--":
                break
            flag = word.partition("=")[0]
            known = self.has(flag) or flag.startswith("--config.")
            if flag.startswith("--") and not known:
                raise self.unknown_flag(word)
        raise UserError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise `UserError` with the nearest of an argument's choices."""
        if action.choices is not None and value not in action.choices:
            raise unknown(action.dest, str(value), action.choices)

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse a command line.

        Args:
          arguments: words of the command line; default: the words of this process.

        Returns:
          The flags. If the parser has a default for `overrides`, that field lists the fields of the
          config that are set: "lr=0.2" for --config.lr=0.2 and for --config.lr 0.2.

        Raises:
          UserError: for a flag that is unknown, missing or empty.
        """
        words = list(sys.argv[1:] if arguments is None else arguments)
        self._words = _with_flag_files(words)
        flags, rest = self.parse_known_args(self._words)
        overrides = []
        rest.reverse()
        while rest:
            text = rest.pop()
            if "overrides" not in flags or not text.startswith("--config."):
                raise self.unknown_flag(text)
            # With or without "=", as with any flag.
            overrides.append(text if "=" in text or not rest else f"{text}={rest.pop()}")
        for flag, value in vars(flags).items():
            # An unset variable of the shell leaves a flag empty.
            if "" in (value if isinstance(value, list) else [value]):
                raise UserError(f"--{flag} is empty")
        if "overrides" in flags:
            flags.overrides = [text.removeprefix("--config.") for text in overrides]
        return flags

    def has(self, flag: str) -> bool:
        """Return whether there is a flag, such as "--workdir"."""
        return flag in self._option_string_actions

    def unknown_flag(self, text: str) -> UserError:
        """Return the error for a word that the parser does not know."""
        if not text.startswith("-"):
            return UserError(f"unexpected {text!r} (flags begin with --); see {self.prog} --help")
        return unknown("flag", text.partition("=")[0], self._option_string_actions)


def _with_flag_files(words: list[str]) -> list[str]:
    """Return a command line with the flags of each --flagfile=FILE in its place."""
    if not any(word.startswith(("--flagfile", "-flagfile")) for word in words):
        return words
    from absl import flags

    try:
        read = flags.FlagValues().read_flags_from_files(words)
    except (flags.Error, ValueError) as error:  # ValueError: the file is no text
        reason = one_line(error).removeprefix("ERROR:: ")
        raise UserError(f"--flagfile can't be read: {reason}") from error
    # The first line may begin with Windows' mark of UTF-8, and be empty or a comment after it.
    return [word.removeprefix(_MARK) for word in read if not re.match(f"{_MARK}(#|//|$)", word)]


def exit_code(program: Callable[[], int | None]) -> int:
    """Run a program and return its exit code; report an error on stderr and return its code."""
    # These print errors that they then raise or handle: Orbax, TFDS, and two clients.
    absl.logging.set_verbosity(absl.logging.FATAL)
    for name in ("asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # It warns of each font that its styles name and the machine lacks.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    sys.unraisablehook = _report_unraisable
    # JAX warns when its compilation cache is damaged or can't be written to.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    try:
        return program() or 0
    except SystemExit as end:
        if end.code == 1:  # rich's way to end at a broken pipe
            return BROKEN_PIPE
        raise
    except Stopped as stop:
        ignore_signals()  # SLURM sends a second one
        print(stop, file=sys.stderr)
        return stop.exit_code
    except (UserError, Diverged, LostProcess, Unsaved) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        if not is_storage_error(error):
            if problem := _problem_of_memory(error) or _problem_of_devices():
                print(f"error: {problem}", file=sys.stderr)
                return UserError.exit_code
            raise
        # A disk that is full, read-only or gone; a bucket that does not answer.
        print(f"error: {one_line(error)}", file=sys.stderr)
        return Unsaved.exit_code


def _problem_of_memory(error: Exception) -> str | None:
    """Return how to need less memory if an error means that there is too little, or None."""
    if "jax" not in sys.modules:
        return None
    from aggnets_jax.runtime.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    reason = one_line(str(error).partition("\n")[0] or type(error).__name__)
    less = "smaller batches, fewer seeds, accumulation_steps and model.remat need less"
    return f"too little memory: {reason}; {less}"


def _problem_of_devices() -> str | None:
    """Return why JAX has no devices, which any use of it may have met first, or None."""
    if "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except Exception as error:  # an AssertionError for a platform without its plugin
        wanted = jax.config.jax_platforms  # type: ignore[attr-defined]
        where = f"JAX_PLATFORMS={wanted}" if wanted else "this machine"
        return f"JAX can't use the devices of {where}: {one_line(error)}"
    return None


def _report_unraisable(unraisable: Any) -> None:
    """Report an exception that no code can handle, except those of clients after a failure.

    They are Orbax's after a failed read, and gcsfs's buffers of a failed write.
    """
    files = [frame.filename for frame in traceback.extract_tb(unraisable.exc_traceback)]
    known = any("orbax" in file or "asyncio" in file for file in files)
    if not known and unraisable.exc_type is not BufferError:
        sys.__unraisablehook__(unraisable)
