"""Print a script that completes `aggnets` in a shell.

eval "$(aggnets completion bash)"
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.errors import unknown

SHELLS = ("bash", "tcsh", "zsh")


def add_arguments(parser: Parser) -> None:
    """Add the argument."""
    parser.add_argument("shell", help=", ".join(SHELLS))


def run(flags: argparse.Namespace) -> None:
    """Print the script."""
    if flags.shell not in SHELLS:
        raise unknown("shell", flags.shell, SHELLS)
    import shtab

    from aggnets_jax import commands

    whole = Parser(prog="aggnets")
    subcommands = whole.add_subparsers()
    for name in commands.NAMES:
        parser = subcommands.add_parser(name, help=commands.first_line(name))
        commands.load(name).add_arguments(parser)
    print(shtab.complete(whole, flags.shell))
