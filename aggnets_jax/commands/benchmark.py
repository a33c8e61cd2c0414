"""Measure speed, compilation and memory of networks in several forms.

Example:
    aggnets benchmark --models=densenet_bc100_k12 --modes=train --forms=plain,default
"""

import argparse

from aggnets_jax.benchmark import MODES
from aggnets_jax.cli import Parser


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("--models", required=True, help="registered networks, with commas between them")
    add("--modes", default="train", help=f"{', '.join(MODES)}; default train")
    add(
        "--forms",
        default="default",
        help="of the networks, in turn: default, plain, native, scan, remat=layer, remat=norm, any"
        " argument, or several joined by +; ratios are to the first",
    )
    add("--model_args", action="append", default=[], help="of all forms: NAME=VALUE,NAME=VALUE")
    add("--num_classes", type=int, help="default that of the family")
    add("--batch_size", type=int, default=64, help="over all devices; default 64")
    add("--image_size", type=int, help="side of the images; default that of the family")
    add("--dtype", default="float32", help="of the computation: float32 or bfloat16")
    add("--repeats", type=int, default=7, help="in which forms take turns; default 7")
    add("--seconds", type=float, default=10, help="for the repeats of each form; default 10")
    add("--steps_per_dispatch", type=int, help="of training; default that of runs")
    add("--against", help="torch, for the same networks in PyTorch; or another network")
    add("--against_forms", help="of torch: eager, compile, channels_last, or joined by +")
    add("--json", help="file to write")
    add("--csv", help="file to write")
    add("--profile", help="folder for profiler traces of a few steps")


def run(flags: argparse.Namespace) -> None:
    """Measure, print the table, and write it."""
    from aggnets_jax.benchmark.run import run

    run(flags)
