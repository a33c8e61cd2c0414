"""The subcommand that analyses trained networks; each analysis has a parser of its own."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from aggnets_jax.analysis import ANALYSES, OF_ALL_SEEDS, first_line
from aggnets_jax.cli import Parser
from aggnets_jax.commands.command import CHECKPOINT, SEED, WORKDIR, CommandParser, command
from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path, make_folder

_ANALYSES = {**ANALYSES, "efficiency": "aggnets_jax.reports.efficiency"}
_WITHOUT_LABELS = ("weights", "shortcuts", "reuse", "dissection")
_OF_RESULTS = ("efficiency",)  # without a checkpoint: their `run` is `run(flags, output)`
_OTHER_NAMES = {"dissection": ["dissect"]}
_EXAMPLES = {
    "workdir": "runs/digits",
    "data": "cifar10",
    "data_dir": "broden1_224",
    "output": "runs/efficiency",
}


class _AnalysisParser(CommandParser):
    """Parser of one analysis; the analysis, and JAX with it, is imported only when it is chosen."""

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the flags of the analysis."""
        module = importlib.import_module(_ANALYSES[self.get_default("analysis")])
        if hasattr(module, "add_arguments"):
            module.add_arguments(self)
        needed = [action.dest for action in self._actions if action.required]
        words = [self.prog, *(f"--{name}={_EXAMPLES[name]}" for name in needed)]
        self.epilog = f"Example:\n    {' '.join(words)}"
        flags, rest = super().parse_known_args(args, namespace)
        if rest:
            raise self.unknown_flag(rest[0])
        return flags, rest


def _add_analyses(parser: Parser) -> None:
    analyses = parser.add_subparsers(
        dest="analysis", required=True, metavar="NAME", parser_class=_AnalysisParser
    )
    for name, module in _ANALYSES.items():
        line = first_line(module)
        analysis = analyses.add_parser(
            name, aliases=_OTHER_NAMES.get(name, ()), help=line, description=line
        )
        analysis.set_defaults(analysis=name)
        if name in _OF_RESULTS:
            analysis.add_argument("--output", required=True, help="folder to write to")
        else:
            for add in (WORKDIR, CHECKPOINT, SEED):
                add(analysis)
            analysis.add_argument("--output", help="folder to write to; default WORKDIR/analysis")


@command("analyse", _add_analyses, compiles=True)
def analyse(flags: argparse.Namespace) -> None:
    """Analyse a trained network as papers do: tables and pictures in WORKDIR/analysis.

    Examples:
        aggnets analyse weights --workdir=runs/digits
        aggnets analyse efficiency --output=runs/efficiency

    `aggnets analyse NAME --help` lists the flags of an analysis.
    """
    from aggnets_jax.runtime import mesh as mesh_lib
    from aggnets_jax.runtime.notes import note
    from aggnets_jax.workdir.restore import restore_network

    inputs: list[Any] = []
    if flags.analysis not in _OF_RESULTS:
        everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
        restored = restore_network(flags.workdir, flags.checkpoint, everywhere)
        task, tasks = restored.config.task, ["classification"]
        if flags.analysis in _WITHOUT_LABELS:
            tasks.append("multilabel")
        if task not in tasks:
            allowed = " and ".join(tasks)
            raise UserError(f"{flags.analysis} is for {allowed}, and this is a run of {task}")
        if flags.analysis not in OF_ALL_SEEDS:
            restored = restored._replace(variables=restored.variables_at(flags.seed))
        inputs.append(restored)
    output = make_folder(flags.output or any_path(flags.workdir) / "analysis")
    note(f"computing {flags.analysis}")
    importlib.import_module(_ANALYSES[flags.analysis]).run(*inputs, flags, output)
