"""What the programs of the package share: mistakes are one line, and have an exit code."""

import argparse
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging

from aggnets_jax.errors import Diverged, LostProcess, Stopped, Unsaved, UserError, one_line, unknown


class Parser(argparse.ArgumentParser):
    """Reports mistakes on the command line as the program's other mistakes."""

    def error(self, message: str) -> None:
        """Raises `UserError`."""
        raise UserError(f"{message}; see --help")

    def parse_with_overrides(
        self, arguments: Sequence[str] | None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses flags, and the fields of a config that are set beside them.

        Returns:
          The flags, and "lr=0.2" for each --config.lr=0.2 or --config.lr 0.2.

        Raises:
          UserError: for a flag that is unknown or missing.
        """
        flags, rest = self.parse_known_args(arguments)
        overrides = []
        rest.reverse()
        while rest:
            text = rest.pop()
            if not text.startswith("--config."):
                raise unknown("flag", text.partition("=")[0], self._option_string_actions)
            # With or without "=", as with any flag.
            overrides.append(text if "=" in text or not rest else f"{text}={rest.pop()}")
        return flags, [override.removeprefix("--config.") for override in overrides]


def exit_code(program: Callable[[], None]) -> int:
    """Runs a program; returns 0, or the exit code of what ended it early, told on stderr."""
    # Orbax and TFDS print what they then raise, or handle.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    # Such as JAX's, when its compilation cache is damaged or can't be written to.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    try:
        program()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except (UserError, Diverged, LostProcess, Unsaved) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a disk that is full, read-only or gone
        print(f"error: {one_line(error)}", file=sys.stderr)
        return Unsaved.exit_code
    return 0


def _report_unraisable(unraisable: Any) -> None:
    """Reports an exception that nobody can handle, but for what Orbax leaves when a read fails."""
    files = [frame.filename for frame in traceback.extract_tb(unraisable.exc_traceback)]
    if not any("orbax" in file or "asyncio" in file for file in files):
        sys.__unraisablehook__(unraisable)
