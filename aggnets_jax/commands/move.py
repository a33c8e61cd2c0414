"""Subcommands that move trained networks to other programs and places."""

import argparse

from aggnets_jax.commands.command import (
    CHECKPOINT,
    SEED,
    WORKDIR,
    check_reads_workdir,
    command,
    flag,
    switch,
)
from aggnets_jax.export import FORMATS


@command(
    "export",
    *(WORKDIR, CHECKPOINT, SEED),
    flag("--format", "format of the program", choices=FORMATS, required=True),
    flag("--output", "new file, or new folder of a savedmodel", required=True, metavar="PATH"),
    switch("--fold_batch_norm", "merge normalisations into the convolutions before them"),
    compiles=True,
)
def export(flags: argparse.Namespace) -> None:
    """Write a trained classifier as a program that runs without this package.

    Examples:
        aggnets export --workdir=runs/digits --format=onnx --output=digits.onnx
        aggnets export --workdir=runs/digits --format=stablehlo --output=digits.stablehlo

    The program takes stored images, uint8 [batch, height, width, channels], of any batch size. It
    normalises them and returns logits. The names of the classes are stored with it. Before PATH is
    written, the program runs once and is compared with the network.
    """
    from aggnets_jax.export.runs import export_network

    export_network(
        flags.workdir,
        flags.format,
        flags.output,
        which=flags.checkpoint,
        seed=flags.seed,
        fold=flags.fold_batch_norm,
    )


def _check_pushes(flags: argparse.Namespace) -> None:
    from aggnets_jax.hub import parse

    parse(flags.repository)
    check_reads_workdir(flags)


@command(
    "push",
    flag("repository", "repository on the Hub, new or existing", metavar="hf://USER/NAME"),
    *(WORKDIR, CHECKPOINT, SEED),
    switch("--private", "make a new repository private"),
    check=_check_pushes,
)
def push(flags: argparse.Namespace) -> None:
    """Share a trained classifier on the Hugging Face Hub, with a model card.

    Example:
        aggnets push hf://USER/NAME --workdir=runs/digits

    Others can then use it as hf-hub:USER/NAME. Log in first: hf auth login.
    """
    from aggnets_jax.convert.on_hub import push

    push(
        flags.workdir,
        flags.repository,
        which=flags.checkpoint,
        seed=flags.seed,
        private=flags.private,
    )
