"""Print a script that completes `aggnets` in a shell.

Example:
    eval "$(aggnets completion bash)"
"""

import argparse

from aggnets_jax.cli import Parser


def add_arguments(parser: Parser) -> None:
    """Add the argument."""
    import shtab

    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


def run(flags: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from aggnets_jax import commands

    whole = Parser(prog="aggnets")
    subcommands = whole.add_subparsers()
    for name in commands.NAMES:
        parser = subcommands.add_parser(name, help=commands.first_line(name))
        commands.load(name).add_arguments(parser)
    print(shtab.complete(whole, flags.shell))
