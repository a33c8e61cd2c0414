"""The subcommands of `aggnets`, a module each.

A module's docstring is the text of its --help: the first line is its line in the list of all
subcommands, and its examples must be valid. `add_arguments(parser)` adds its flags with their
defaults. `run(flags)` does the work and may return an exit code; it imports JAX and the rest of the
package, so that --help doesn't.
"""

import importlib
from types import ModuleType

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError

GROUPS = {
    "Train and evaluate": ("train", "eval", "predict", "report"),
    "Look inside": ("analyse", "ablate", "learn"),
    "Compare": ("compare", "results", "experiments"),
    "Move weights": ("convert",),
    "Plan and measure": ("models", "dry-run", "benchmark"),
    "Prepare and automate": ("prepare-data", "sweep", "completion"),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)


class CommandParser(Parser):
    """Parser of a subcommand, which knows the flags of the others."""

    def unknown_flag(self, text: str) -> UserError:
        """Return the error for a word that the subcommand does not know."""
        flag = text.partition("=")[0]
        of_config = flag.partition(".")[0] == "--config" and not self.has("--config")
        if of_config and self.has("--workdir"):
            return UserError(f"{self.prog} takes the config of the workdir, not --config")
        others = [f"aggnets {name}" for name in NAMES if make_parser(name).has(flag)]
        if others:
            return UserError(f"{flag} is for {', '.join(others)}, not for {self.prog}")
        return super().unknown_flag(text)


def load(name: str) -> ModuleType:
    """Return the module of a subcommand, such as "dry-run"."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def first_line(name: str) -> str:
    """Return the line of a subcommand in the list of all subcommands."""
    return load(name).__doc__.partition("\n")[0]


def make_parser(name: str) -> CommandParser:
    """Return the parser of a subcommand's flags."""
    command = load(name)
    parser = CommandParser(prog=f"aggnets {name}", description=command.__doc__)
    command.add_arguments(parser)
    return parser
