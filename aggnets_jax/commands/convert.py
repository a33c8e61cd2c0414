"""Move weights from PyTorch into a new workdir, or from a workdir to PyTorch.

Examples:
    aggnets convert --workdir=runs/digits --to_torch=digits.safetensors
    aggnets convert --config=CONFIG --workdir=NEW --from_torch=FILE
"""

import argparse

from aggnets_jax.cli import Parser
from aggnets_jax.commands import shared
from aggnets_jax.errors import UserError

_DIRECTIONS = {
    "checkpoint": "to_torch",
    "seed": "to_torch",
    "dialect": "to_torch",
    "data_dir": "from_torch",
}


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    shared.add_checkpoint(parser)
    shared.add_seed(parser)
    parser.add_argument("--to_torch", metavar="FILE", help="new file for the workdir's weights")
    parser.add_argument("--dialect", help="whose names --to_torch writes, such as torchvision's")
    parser.add_argument("--from_torch", metavar="FILE", help="weights of a new workdir")
    shared.add_config(parser, required=False)
    shared.add_data_dir(parser)


def run(flags: argparse.Namespace) -> None:
    """Convert in one direction."""
    if (flags.from_torch is None) == (flags.to_torch is None):
        raise UserError("aggnets convert needs one of --from_torch=FILE and --to_torch=FILE")
    for flag, direction in _DIRECTIONS.items():
        if getattr(flags, direction) is None and getattr(flags, flag) not in (None, "latest"):
            raise UserError(f"--{flag} is for --{direction}")
    if flags.from_torch and not flags.config:
        raise UserError("--config is missing: a config file such as configs/digits.py")
    if flags.to_torch and (flags.config or flags.overrides):
        raise UserError("--to_torch takes the config of the workdir, not --config")
    from aggnets_jax.convert.runs import export_weights, import_weights
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    if flags.from_torch:
        config = shared.load_config(flags, {"data.data_dir": flags.data_dir})
        import_weights(config, flags.workdir, flags.from_torch)
    else:
        export_weights(
            flags.workdir,
            flags.to_torch,
            which=flags.checkpoint,
            seed=flags.seed,
            dialect=flags.dialect,
        )
