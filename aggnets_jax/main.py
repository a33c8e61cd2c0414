"""The command line: train a network, evaluate a checkpoint, report on a run.

    python -m aggnets_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m aggnets_jax.main --mode=eval --workdir=runs/digits
    python -m aggnets_jax.main --mode=report --workdir=runs/digits

Exit codes: 0 done; 2 something in the input is wrong; 3 the run diverged; 75 it was stopped by a
signal, saved its state, and goes on with the same command.
"""

import argparse
import sys
from collections.abc import Sequence

from aggnets_jax import config as config_lib
from aggnets_jax.command_line import Parser, exit_code
from aggnets_jax.errors import UserError, unknown

MODES = ("train", "eval", "report")


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="python -m aggnets_jax.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", default="train", help=f"{', '.join(MODES)}; default train")
    parser.add_argument(
        "--config", action="append", help="config file; any of its fields: --config.lr=0.2"
    )
    parser.add_argument("--workdir", required=True, help="local directory of the run")
    parser.add_argument("--data_dir", help="of the data set; overrides config.data.data_dir")
    parser.add_argument("--checkpoint", help="to evaluate: latest, best or a step; default latest")
    flags, rest = parser.parse_known_args(arguments)
    if flags.config and len(flags.config) > 1:
        raise UserError(f"--config is given {len(flags.config)} times; a run has one")
    flags.config = flags.config and flags.config[0]
    overrides = []
    rest.reverse()
    while rest:
        text = rest.pop()
        if not text.startswith("--config."):
            options = [o for a in parser._actions for o in a.option_strings]
            raise unknown("flag", text.partition("=")[0], options)
        # Both --config.lr=0.2 and --config.lr 0.2, as with any flag.
        overrides.append(text if "=" in text or not rest else f"{text}={rest.pop()}")
    if flags.mode not in MODES:
        raise unknown("mode", flags.mode, MODES)
    return flags, [override.removeprefix("--config.") for override in overrides]


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    flags, overrides = _parse(arguments)
    if flags.checkpoint is not None and flags.mode != "eval":
        raise UserError("--checkpoint is for --mode=eval; a run goes on from its latest one")
    if flags.mode == "train":
        if flags.config is None:
            raise UserError("--config is missing: a config file such as configs/digits.py")
        if flags.data_dir is not None:
            overrides.append(f"data.data_dir={flags.data_dir}")
        config = config_lib.load(flags.config, overrides)
        from aggnets_jax.train import train_and_evaluate

        train_and_evaluate(config, flags.workdir)
    elif flags.config is not None or overrides:
        raise UserError(f"--mode={flags.mode} takes the config of the workdir, not --config")
    elif flags.mode == "eval":
        from aggnets_jax.evaluate import evaluate_checkpoint

        evaluate_checkpoint(
            flags.workdir,
            "latest" if flags.checkpoint is None else flags.checkpoint,
            flags.data_dir,
        )
    else:
        from aggnets_jax.report import report

        report(flags.workdir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
