"""Learn a connection pattern: train weights of links with the network under a penalty.

Examples:
    aggnets learn --config=CONFIG --workdir=NEW --penalty=topk --strength=0.02 --keep=51
    aggnets learn --config=CONFIG --workdir=NEW --penalty=l1 --strength=0.1 --from=RUN

Each link is multiplied by its weight in [0, 1]. The penalty takes weight from all links (l1), or
from all but the K strongest (topk). NEW is the workdir of the training, and the same command goes
on after a stop. At the end NEW/pattern.json has the weights, NEW/config.py trains the remaining
pattern from the initialisation, NEW/cut.csv lists the removed links, and NEW/pattern.png draws the
others.

Factors on parts of a network that a proximal step shrinks are from Huang and Wang, "Data-Driven
Sparse Structure Selection for Deep Neural Networks", ECCV 2018, arXiv 1707.01213. That gradients
can choose links is from Ahmed and Torresani, "MaskConnect: Connectivity Learning by Gradient
Descent", ECCV 2018, arXiv 1807.11473.
"""

import argparse

from aggnets_jax.ablation import PENALTIES
from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared
from aggnets_jax.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_config(parser)
    add = parser.add_argument
    add("--workdir", metavar="DIR", required=True, help="of the run, new or to go on with")
    add(
        "--from",
        metavar="DIR",
        dest="init_from",
        help="workdir of a run to start from; config.init_from",
    )
    add("--penalty", required=True, help=" or ".join(PENALTIES))
    add("--strength", required=True, type=float, help="of the penalty, in loss per unit of weight")
    add(
        "--keep",
        help="links to keep, in all or for each stage: 17,17,17; l1's default: all with weight",
    )


def run(flags: argparse.Namespace) -> None:
    """Learn the pattern."""
    from aggnets_jax.ablation.pattern import learn
    from aggnets_jax.ablation.pruning import Penalty
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    config = shared.load_config(flags, {"init_from": flags.init_from})
    keep = None if flags.keep is None else _numbers(flags.keep)
    learn(config, flags.workdir, Penalty(flags.penalty, flags.strength, keep))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise UserError(f"--keep={text} must be a number, or one for each stage: 17,17") from error
