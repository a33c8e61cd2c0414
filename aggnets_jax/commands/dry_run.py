"""Compile a config's train step for devices that are not there, and report its cost.

Example:
    aggnets dry-run --config=configs/hcgnet/table3.py:hcgnet_b --processes=4 --devices=8

XLA compiles for simulated devices of the CPU, with the convolutions of accelerators. So collectives
and FLOPs are those of a pod; its compiler fuses and lays out arrays in another way, and takes
somewhat more or less memory.
"""

import argparse

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared
from aggnets_jax.errors import UserError
from aggnets_jax.files import local_path


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_config(parser)
    parser.add_argument("--processes", type=int, default=1, help="default 1")
    parser.add_argument("--devices", type=int, default=8, help="of each process; default 8")
    parser.add_argument("--json", help="file to write")


def run(flags: argparse.Namespace) -> None:
    """Compile, print the table, and write it."""
    check_whole_number("processes", flags.processes, 1)
    check_whole_number("devices", flags.devices, 1)
    file = flags.json and local_path(flags.json)
    if file and (file.is_dir() or not file.parent.is_dir()):
        raise UserError(f"{flags.json} can't be written: it is a folder, or in none")
    from aggnets_jax.benchmark.dry_run import report

    report(shared.load_config(flags), flags.processes, flags.devices, file)
