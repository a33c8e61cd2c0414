"""The flags of the command line, and which of them a mode takes."""

import argparse
from collections.abc import Sequence
from typing import Any

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError, unknown

MODES = ("train", "eval", "predict", "report", "ablate", "convert")

DISTRIBUTED = ("train", "eval", "predict")
"""What several processes can do together."""

_CLUSTER = {
    "coordinator_address": "HOST:PORT of the first of several processes; default the cluster's",
    "num_processes": "how many they are; default as many as the cluster has started",
    "process_id": "which of them this is, from 0; default the cluster's number",
    "expected_processes": "refuse to run with another number of processes",
    "join_timeout": "seconds to wait for the other processes; default 300",
}
_ABLATE = {
    "sweep": "links, sources, layers, distance, random, with commas between; default all",
    "cut": "links to cut together, STAGE:LAYER-SOURCE,..., or a .csv file; may be repeated",
    "draws": "of the random sets; default 10",
    "draw_seed": "of the random sets; default 0",
    "at_once": "how many sets are evaluated at a time; default by the network's size",
    "reestimate_batch_statistics": "from so many training batches, after each cut; default 0",
    "export": "new folder for a config and weights of the network without the links of --cut",
    "export_least": "or without so many of the links that matter least",
}
_NUMBERS = ("draws", "draw_seed", "at_once", "reestimate_batch_statistics", "export_least")


def parse(
    arguments: Sequence[str] | None, description: str
) -> tuple[argparse.Namespace, list[str]]:
    """Parses and checks a command line.

    Args:
      arguments: default those of the process.
      description: of the program, for --help.

    Returns:
      The flags, and the overrides of the config such as "lr=0.2".

    Raises:
      UserError: for a flag that is unknown, missing, or not looked at in the mode.
    """
    flags, overrides = _parser(description).parse_with_overrides(arguments)
    if flags.config and len(flags.config) > 1:
        raise UserError(f"--config is given {len(flags.config)} times; a run has one")
    flags.config = flags.config and flags.config[0]
    if flags.mode not in MODES:
        raise unknown("mode", flags.mode, MODES)
    _check(flags, overrides)
    return flags, overrides


def _parser(description: str) -> Parser:
    parser = Parser(
        prog="python -m aggnets_jax.main",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", default="train", help=f"{', '.join(MODES)}; default train")
    parser.add_argument(
        "--config", action="append", help="config file; any of its fields: --config.lr=0.2"
    )
    parser.add_argument("--workdir", required=True, help="local directory of the run")
    parser.add_argument(
        "--allow_config_change",
        action="store_const",
        const=True,
        help="go on with a run whose config was another so far",
    )
    parser.add_argument("--data_dir", help="of the data set; overrides config.data.data_dir")
    parser.add_argument("--checkpoint", help="to read: latest, best or a step; default latest")
    parser.add_argument(
        "--watch",
        action="store_const",
        const=True,
        help="eval: evaluate the newest checkpoint, and those to come until the run is finished",
    )
    parser.add_argument("--seed", type=int, help="to read, of a run that trains several at once")
    parser.add_argument(
        "--images", action="append", help="predict: file, or folder of files; may be repeated"
    )
    parser.add_argument("--top", type=int, help="predict: how many classes to name; default 5")
    parser.add_argument("--format", help="predict: table, csv or json; default table")
    parser.add_argument(
        "--output",
        help="predict: file to write to instead of printing; ablate: folder, default"
        " WORKDIR/ablation",
    )
    parser.add_argument(
        "--html", action="store_const", const=True, help="report: make WORKDIR/report.html, too"
    )
    for name, told in _ABLATE.items():
        parser.add_argument(
            f"--{name}",
            help=f"ablate: {told}",
            type=int if name in _NUMBERS else str,
            action="append" if name == "cut" else "store",
        )
    parser.add_argument("--from_torch", help="convert: file of weights to make a new workdir of")
    parser.add_argument("--to_torch", help="convert: file to write the weights of a workdir to")
    parser.add_argument("--dialect", help="convert: whose names to write, such as torchvision's")
    for name, told in _CLUSTER.items():
        kind = str if name == "coordinator_address" else int
        parser.add_argument(f"--{name}", type=kind, help=told)
    return parser


def given(flags: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The values of some flags, of those that are given."""
    values = {name: getattr(flags, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _check(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuses flags that are missing or empty, or that the mode would not look at."""
    for flag, value in vars(flags).items():
        # As a variable of the shell that is not set leaves it.
        if "" in (value if isinstance(value, list) else [value]):
            raise UserError(f"--{flag} is empty")
    converts, makes_run = flags.mode == "convert", flags.mode == "train"
    predicts, ablates = flags.mode == "predict", flags.mode == "ablate"
    if converts:
        makes_run = flags.from_torch is not None
        if makes_run == (flags.to_torch is not None):
            raise UserError("--mode=convert needs one of --from_torch=FILE and --to_torch=FILE")
    for flag, wanted, mode in [
        ("allow_config_change", makes_run and not converts, "training"),
        *(
            (flag, flags.mode in DISTRIBUTED, "training, --mode=eval and --mode=predict")
            for flag in _CLUSTER
        ),
        (
            "data_dir",
            makes_run or flags.mode == "eval" or ablates or flags.html is not None,
            "training, --mode=eval, --mode=ablate and --mode=report --html",
        ),
        ("watch", flags.mode == "eval", "--mode=eval"),
        ("html", flags.mode == "report", "--mode=report"),
        *((flag, predicts, "--mode=predict") for flag in ("images", "top", "format")),
        *((flag, ablates, "--mode=ablate") for flag in _ABLATE),
        ("output", predicts or ablates, "--mode=predict and --mode=ablate"),
        ("from_torch", converts, "--mode=convert"),
        ("to_torch", converts, "--mode=convert"),
        (
            "seed",
            predicts or ablates or (converts and not makes_run),
            "--mode=predict, --mode=ablate and --to_torch",
        ),
        ("dialect", converts and not makes_run, "--mode=convert --to_torch"),
        (
            "checkpoint",
            not makes_run and flags.mode != "report",
            "--mode=eval, --mode=predict, --mode=ablate and --to_torch",
        ),
    ]:
        if getattr(flags, flag) is not None and not wanted:
            raise UserError(f"--{flag} is for {mode}")
    if flags.watch and flags.checkpoint is not None:
        raise UserError("--watch evaluates the newest checkpoints, not that of --checkpoint")
    if predicts and flags.images is None:
        raise UserError("--images is missing: a file, or a folder of files")
    if makes_run and flags.config is None:
        raise UserError("--config is missing: a config file such as configs/digits.py")
    if not makes_run and (flags.config is not None or overrides):
        raise UserError(f"--mode={flags.mode} takes the config of the workdir, not --config")
