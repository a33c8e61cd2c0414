"""Measure what a trained network loses without its links; export it without some.

Examples:
    aggnets ablate --workdir=runs/digits --sweep=links,layers
    aggnets ablate --workdir=runs/digits --cut=stage1:3-0,stage1:4-1 --export=runs/pruned
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_checkpoint(parser)
    shared.add_seed(parser)
    shared.add_data_dir(parser)
    add = parser.add_argument
    add("--sweep", help="links, sources, layers, distance, random, with commas; default all")
    add(
        "--cut",
        action="append",
        default=[],
        help="links to cut together, STAGE:LAYER-SOURCE,..., or a .csv file; may be repeated",
    )
    add("--draws", type=int, default=10, help="number of random sets; default 10")
    add("--draw_seed", type=int, default=0, help="seed of the random sets; default 0")
    add("--at_once", type=int, help="sets that are evaluated at a time; default by network size")
    add(
        "--reestimate_batch_statistics",
        type=int,
        default=0,
        help="training batches for new batch statistics after each cut; default 0",
    )
    add("--output", help="folder of the tables; default WORKDIR/ablation")
    add("--export", help="new folder for config and weights of the network without --cut's links")
    add("--export_least", type=int, help="without this number of the least important links")


def run(flags: argparse.Namespace) -> None:
    """Cut links, and print, draw and write the results."""
    from aggnets_jax.ablation.ablate import Options, ablate
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    ablate(
        flags.workdir,
        Options(**{name: getattr(flags, name) for name in Options._fields}),
        which=flags.checkpoint,
        seed=flags.seed,
        data_dir=flags.data_dir,
    )
