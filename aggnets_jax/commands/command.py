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
      run: function that does the work, and may return an exit code.
      flags: functions that add the flags of the command line.
      compiles: whether it compiles programs, for which it then uses the compilation cache.
      check: raises `UserError` for wrong flags, before anything slow is imported.
    """

    run: Callable[[argparse.Namespace], int | None]
    flags: tuple[Flag, ...]
    compiles: bool
    check: Callable[[argparse.Namespace], None]


COMMANDS: dict[str, Command] = {}
"""Subcommands by name."""

_NUMBERS = (int, float)


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

    The first line of the docstring stands in the list of all subcommands. Its examples must be
    valid. The function itself imports JAX and the rest of the package, so that --help is fast.
    """

    def register(run: Callable) -> Callable:
        COMMANDS[name] = Command(run, flags, compiles, check)
        return run

    return register


def flag(name: str, help: str, **options: Any) -> Flag:
    """Return a flag, or an argument, with the options of `add_argument`."""
    if options.get("type") in _NUMBERS:
        options.setdefault("metavar", "N")
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
        if self.prog == "aggnets sweep" and flag.startswith("--config."):
            return UserError(f"unknown flag {flag!r}: fields of the runs come after --: -- {text}")
        others = [f"aggnets {name}" for name in COMMANDS if make_parser(name).has(flag)]
        if others:
            return UserError(f"{flag} is for {', '.join(others)}, not for {self.prog}")
        if self.get_default("overrides") is not None:
            from aggnets_jax.config_fields.files import default_config

            field = flag.lstrip("-")
            if field.partition(".")[0] in default_config():
                return UserError(f"unknown flag {flag!r}; nearest: --config.{field}")
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
SEED = flag("--seed", "seed of the network, if the run has several", type=int)
DATA_DIR = flag("--data_dir", "folder of the data set; default config.data.data_dir", metavar="DIR")


def add_config(parser: Parser, required: bool = True) -> None:
    """Add --config and the overrides of its fields; `load_config` reads them."""
    text = "config file; --config.FIELD=VALUE sets one of its fields (see configs/default.py)"
    flag("--config", text, metavar="FILE", action="append", required=required)(parser)
    parser.set_defaults(overrides=[])


def load_config(
    flags: argparse.Namespace, fields: Mapping[str, str | None] | None = None
) -> ml_collections.ConfigDict:
    """Return the config that the flags name, with their changes of its fields.

    Args:
      flags: flags of the command line, with those of `add_config`.
      fields: values of fields that other flags set, by default --data_dir; None keeps the value of
        the config.

    Raises:
      UserError: for several configs, or as `config.load`.
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
    text = "address of the first process; default from the cluster"
    add("--coordinator_address", metavar="HOST:PORT", help=text)
    text = "number of processes; default from the cluster"
    add("--num_processes", type=int, metavar="N", help=text)
    text = "number of this process: 0, 1, ...; default from the cluster"
    add("--process_id", type=int, metavar="N", help=text)
    add("--expected_processes", type=int, metavar="N", help="refuse any other number of processes")
    add("--join_timeout", type=int, metavar="N", help="seconds to wait for the others; default 300")


@contextlib.contextmanager
def together(flags: argparse.Namespace) -> Iterator[None]:
    """Join the other processes of a run; inside the context, a lost process is an error."""
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
