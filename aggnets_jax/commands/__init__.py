"""The subcommands of `aggnets`, a module each.

A module's docstring is the text of its --help: the first line is its line in the list of all
subcommands, and indented lines are examples. `add_arguments(parser)` adds its flags with their
defaults. `run(flags)` does the work and may return an exit code; it imports JAX and the rest of the
package, so that --help doesn't.
"""

import importlib
from types import ModuleType

from aggnets_jax.cli import Parser


def load(name: str) -> ModuleType:
    """Return the module of a subcommand, such as "dry-run"."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def first_line(name: str) -> str:
    """Return the line of a subcommand in the list of all subcommands."""
    return load(name).__doc__.partition("\n")[0]


def make_parser(name: str) -> Parser:
    """Return the parser of a subcommand's flags."""
    command = load(name)
    parser = Parser(prog=f"aggnets {name}", description=command.__doc__)
    command.add_arguments(parser)
    return parser
