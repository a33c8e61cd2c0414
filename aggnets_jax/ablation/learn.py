"""Learns a connection pattern: weights of links, trained with the network under a penalty.

    python -m aggnets_jax.ablation.learn --config=CONFIG --workdir=NEW [--from=RUN] ...
        --penalty=topk --strength=0.02 --keep=51
        --penalty=l1 --strength=0.1 [--keep=51]

What travels on a link is multiplied by its weight in [0, 1]. The penalty takes weight from all
links (l1), or from all but the K strongest (topk); --from starts from the weights of a trained
network. NEW/pattern.json has what was learnt, NEW/config.py trains the pattern that is left from
the initialisation, NEW/cut.csv lists the links that are gone, NEW/pattern.png draws the others.

Factors on parts of a network that a proximal step shrinks are those of Huang and Wang, "Data-Driven
Sparse Structure Selection for Deep Neural Networks", ECCV 2018, arXiv 1707.01213. That gradients
can choose links is from Ahmed and Torresani, "MaskConnect: Connectivity Learning by Gradient
Descent", ECCV 2018, arXiv 1807.11473.
"""

import argparse
import sys
from collections.abc import Sequence

from aggnets_jax import config as config_lib
from aggnets_jax.ablation import PENALTIES
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parses a command line.

    Returns:
      The flags, and the overrides of the config such as "lr=0.2".

    Raises:
      UserError: for a flag that is unknown, or one that is missing.
    """
    parser = Parser(
        prog="python -m aggnets_jax.ablation.learn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="config file; any of its fields: --config.lr=0.2"
    )
    parser.add_argument("--workdir", required=True, help="new local directory")
    parser.add_argument(
        "--from", dest="init_from", help="workdir of a run to start from; config.init_from"
    )
    parser.add_argument("--penalty", required=True, help=" or ".join(PENALTIES))
    parser.add_argument(
        "--strength", required=True, type=float, help="of the penalty, in loss by weight"
    )
    parser.add_argument(
        "--keep",
        help="links to keep, or those of each stage, such as 17,17,17; with l1 by default those"
        " that have any weight",
    )
    return parser.parse_with_overrides(arguments)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise UserError(f"--keep={text} must be a number, or one for each stage: 17,17") from error


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    flags, overrides = parse(arguments)
    # These import JAX, which --help can do without.
    from aggnets_jax.ablation.pattern import learn
    from aggnets_jax.ablation.pruning import Penalty
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    if flags.init_from is not None:
        overrides.append(f"init_from={flags.init_from}")
    config = config_lib.load(flags.config, overrides)
    keep = None if flags.keep is None else _numbers(flags.keep)
    penalty = Penalty(flags.penalty, flags.strength, keep)
    learn(config, flags.workdir, penalty)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, as `aggnets_jax.main` does."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
