"""Subcommands of `aggnets` as functions, and the flags that several of them have."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections

Flag = Callable[[Parser], Any]
"""Function that adds a flag, or several, to a parser."""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      run: does the work; may return an exit code.
      flags: of the command line, with their defaults.
      compiles: whether it compiles programs, which the program cache then keeps.
      check: raises `UserError` for flags that can't be right, before anything slow is imported.
    """

    run: Callable[[argparse.Namespace], int | None]
    flags: tuple[Flag, ...]
    compiles: bool
    check: Callable[[argparse.Namespace], None]


COMMANDS: dict[str, Command] = {}
"""Subcommands by name."""


def check_reads_workdir(flags: argparse.Namespace) -> None:
    """Check the workdir of a command that reads one."""
    from aggnets_jax.workdir.folder import check_there

    if getattr(flags, "workdir", None) is not None:
        check_there(flags.workdir)


def command(
    name: str,
    *flags: Flag,
    compiles: bool = False,
    check: Callable[[argparse.Namespace], None] = check_reads_workdir,
) -> Callable[[Callable], Callable]:
    """Make a function a subcommand; its docstring is the text of --help.

    The docstring's first line is the line in the list of all subcommands, and its examples must be
    valid. The function imports JAX and the rest of the package, so that --help doesn't.
    """

    def register(run: Callable) -> Callable:
        COMMANDS[name] = Command(run, flags, compiles, check)
        return run

    return register


def flag(name: str, help: str, **options: Any) -> Flag:
    """Return a flag, or an argument, with the options of `add_argument`."""
    return operator.methodcaller("add_argument", name, help=help, **options)


def switch(name: str, help: str) -> Flag:
    """Return a flag without a value; default False."""
    return flag(name, help, action="store_true")


class CommandParser(Parser):
    """Parser of a subcommand, which knows the flags of the others."""

    def unknown_flag(self, text: str) -> UserError:
        """Return the error for a word that the subcommand does not know."""
        flag = text.partition("=")[0]
        of_config = flag.partition(".")[0] == "--config" and not self.has("--config")
        if of_config and self.has("--workdir"):
            return UserError(f"{self.prog} takes the config of the workdir, not --config")
        others = [f"aggnets {name}" for name in COMMANDS if make_parser(name).has(flag)]
        if others:
            return UserError(f"{flag} is for {', '.join(others)}, not for {self.prog}")
        return super().unknown_flag(text)


def make_parser(name: str) -> CommandParser:
    """Return the parser of a subcommand's flags."""
    parser = CommandParser(prog=f"aggnets {name}", description=help_text(name))
    for add in COMMANDS[name].flags:
        add(parser)
    return parser


def help_text(name: str) -> str:
    """Return the docstring of a subcommand."""
    return inspect.getdoc(COMMANDS[name].run)


WORKDIR = flag("--workdir", "directory of the run", metavar="DIR", required=True)
CHECKPOINT = flag("--checkpoint", "latest, best or a step; default latest", default="latest")
SEED = flag("--seed", "network to read, of a run with several seeds", type=int)
DATA_DIR = flag("--data_dir", "folder of the data set; default config.data.data_dir", metavar="DIR")


def add_config(parser: Parser, required: bool = True) -> None:
    """Add --config and the overrides of its fields; `load_config` reads them."""
    text = "config file; --config.FIELD=VALUE sets one of its fields"
    flag("--config", text, metavar="FILE", action="append", required=required)(parser)
    parser.set_defaults(overrides=[])


def load_config(
    flags: argparse.Namespace, fields: Mapping[str, str | None] | None = None
) -> ml_collections.ConfigDict:
    """Return the config of the flags.

    Args:
      flags: with those of `add_config`.
      fields: fields that other flags set, default --data_dir; None leaves what the config says.
    """
    from aggnets_jax import config as config_lib

    if len(flags.config) > 1:
        raise UserError(f"--config is given {len(flags.config)} times; a run has one")
    if fields is None:
        fields = {"data.data_dir": flags.data_dir}
    given = [f"{name}={value}" for name, value in fields.items() if value is not None]
    return config_lib.load(flags.config[0], [*flags.overrides, *given])


def add_processes(parser: Parser) -> None:
    """Add the flags of several processes, which `together` reads."""
    add = parser.add_argument_group("several processes").add_argument
    add("--coordinator_address", metavar="HOST:PORT", help="of the first; default the cluster's")
    add("--num_processes", type=int, help="default as many as the cluster started")
    add("--process_id", type=int, help="from 0; default the cluster's number")
    add("--expected_processes", type=int, help="refuse another number of processes")
    add("--join_timeout", type=int, help="seconds to wait for others; default 300")


@contextlib.contextmanager
def together(flags: argparse.Namespace) -> Iterator[None]:
    """Join the other processes of a run, and notice inside the context when one is lost."""
    from aggnets_jax.runtime.distributed import join, report_lost_processes

    join(
        flags.coordinator_address,
        flags.num_processes,
        flags.process_id,
        expected_processes=flags.expected_processes,
        timeout=flags.join_timeout,
    )
    with report_lost_processes():
        yield
