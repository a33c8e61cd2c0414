"""The subcommands of `aggnets`: functions with their flags, in the modules of this package."""

from aggnets_jax.commands import analyses, move, runs, sweep, tools  # noqa: F401, they fill COMMANDS
from aggnets_jax.commands.command import COMMANDS as COMMANDS
from aggnets_jax.commands.command import help_text as help_text
from aggnets_jax.commands.command import make_parser as make_parser

GROUPS = {
    "Train and evaluate": ("train", "eval", "predict", "report"),
    "Look inside": ("analyse", "ablate", "learn"),
    "Compare": ("compare", "results", "experiments"),
    "Move networks": ("convert", "export", "push"),
    "Plan and measure": ("models", "dry-run", "benchmark"),
    "Prepare and automate": ("prepare-data", "sweep", "completion"),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)


def first_line(name: str) -> str:
    """Return the line of a subcommand in the list of all subcommands."""
    return help_text(name).partition("\n")[0]
