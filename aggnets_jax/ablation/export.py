"""A network without some links, written as a config that trains it and the weights it starts from.

FOLDER is the workdir of a run that has these weights and has not made a step. FOLDER/config.py is
the config of the run that was ablated, with the patterns that are left, and starts from FOLDER;
FOLDER/cut.csv lists the links that are gone.
"""

import csv
import io
import pprint
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.ablation.removal import (
    Smaller,
    check_same_function,
    fitting_variables,
    smaller_network,
)
from aggnets_jax.ablation.sets import StageLink, Stages
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import local_path, write_text
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

_CONFIG = '''"""A network without some of its links; cut.csv says which.

    aggnets train --config=THIS_FILE --workdir=NEW

{start}
"""
{imports}
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(
{fields}
    )
{init_from}    return config
'''
_FROM_HERE = """\
Training starts from the weights in this file's folder; with --config.init_from=None, from the
initialisation."""
_FROM_NOTHING = "Training starts from the initialisation."


def check_new_folder(folder: str | Path) -> Path:
    """The path of a folder to export to, or `UserError` if something is in it."""
    path = local_path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder} exists already; give the name of a new folder to export to")
    return path


def weights_fit(
    restored: Restored, variables: Variables, stages: Stages, cut: Sequence[StageLink]
) -> bool:
    """Whether the weights of a network can be cut to fit it without some links, by their shapes."""
    try:
        smaller = smaller_network(restored, stages, cut)
        _fitting(restored, variables, smaller, stages, cut)
    except UserError:
        return False
    return True


def export(
    restored: Restored,
    variables: Variables,
    stages: Stages,
    cut: Sequence[StageLink],
    folder: str | Path,
    *,
    batch: data.Batch,
    seed: int | None = None,
) -> None:
    """Writes a network without some links, and prints what can be done with it.

    If its weights can't be those that it had, that is printed, too, and the folder has none.

    Args:
      restored: the network.
      variables: of it.
      stages: of it.
      cut: the links.
      folder: a new one.
      batch: of examples, to compare the network with the masked one.
      seed: of a run with several.

    Raises:
      UserError: if there is no such network, or the folder is not new; nothing is written.
    """
    path = check_new_folder(folder)
    smaller = smaller_network(restored, stages, cut, seed)
    try:
        fitting = _fitting(restored, variables, smaller, stages, cut)
        images = data.make_preprocess(restored.config.data, restored.info)(batch, train=False)
        check_same_function(restored, variables, smaller, fitting, stages, cut, images)
    except UserError as error:
        fitting, reason = None, str(error)
    try:
        if fitting is not None:
            write_new_run(smaller.config, restored.info, fitting, path)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "cut.csv", cut_table(cut))
        write_text(path / "config.py", config_text(smaller.config, starts=fitting is not None))
    except OSError as error:
        raise UserError(f"{folder} can't be written: {one_line(error)}") from error
    print(f"without {len(cut)} links: {path / 'config.py'}", flush=True)
    if fitting is None:
        print(f"it trains from the initialisation, as its weights can't be cut to fit: {reason}")
    else:
        print(f"its weights, which compute the same as the masked ones: {path}, as a --workdir")


def _fitting(
    restored: Restored,
    variables: Variables,
    smaller: Smaller,
    stages: Stages,
    cut: Sequence[StageLink],
) -> Variables:
    return fitting_variables(
        restored.model, variables, smaller.model, restored.info.image_shape, stages, cut
    )


def cut_table(cut: Sequence[StageLink]) -> str:
    """The links as a file that --cut takes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "layer", "source"])
    writer.writerows((stage, *link) for stage, link in cut)
    return text.getvalue()


def config_text(config: ml_collections.ConfigDict, *, starts: bool) -> str:
    """A config file that says what of a config differs from the defaults.

    Args:
      config: whole.
      starts: whether it starts from the weights in the folder of the file.
    """
    default = config_lib.to_json(config_lib.default_config())
    fields: dict[str, Any] = {}
    for name, (_, value) in config_lib.changes(default, config_lib.to_json(config)).items():
        _put(fields, name, value)
    if config.data.data_dir is not None:
        _put(fields, "data.data_dir", config.data.data_dir)
    # As literals: texts in a config may be anybody's.
    literal = pprint.pformat(fields, width=92, compact=True, sort_dicts=False)
    return _CONFIG.format(
        start=_FROM_HERE if starts else _FROM_NOTHING,
        imports="\nfrom pathlib import Path\n" if starts else "",
        fields=textwrap.indent(literal, " " * 8),
        init_from="    config.init_from = str(Path(__file__).parent)\n" if starts else "",
    )


def _put(fields: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        fields = fields.setdefault(group, {})
    fields[last] = value
