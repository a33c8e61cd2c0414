"""List networks with their parameters and multiply-adds, or describe one of them.

Examples:
    aggnets models 'sparsenet_bc*'
    aggnets models sparsenet_bc100_k24
    aggnets models --page

The page is docs/models.md, with all networks; counting them takes minutes.
"""

import argparse
import sys

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument(
        "name", nargs="?", default="*", metavar="GLOB", help="shell pattern or name"
    )
    parser.add_argument("--page", action="store_true", help="print the page of all networks")


def run(flags: argparse.Namespace) -> None:
    """Print the page, the list, or one network."""
    from aggnets_jax.models import page
    from aggnets_jax.models.registry import find_family, list_models, model_info

    names = list_models(flags.name)
    if flags.page:
        if flags.name != "*":
            raise UserError(f"--page has all networks; leave {flags.name!r} out")
        sys.stdout.write(page.page({name: page.row(name) for name in names}))
    elif not set(flags.name) & set("*?["):
        facts = {**page.facts(flags.name), "paper": find_family(flags.name).paper}
        print("\n".join(f"{title:<12}{text}" for title, text in facts.items() if text))
    elif not names:
        raise UserError(f"no network is named like {flags.name!r}; aggnets models lists all")
    else:
        print(f"{'network':<34}{'parameters':>14}{'multiply-adds':>18}")
        for name in names:  # each is printed as soon as it is counted
            info = model_info(name)
            print(f"{name:<34}{info.params:>14,}{info.macs:>18,}", flush=True)
