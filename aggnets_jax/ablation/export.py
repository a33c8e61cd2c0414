"""A network without some links, written as a config that trains it, with its weights.

FOLDER becomes a workdir with these weights at step 0. FOLDER/config.py is the config of the ablated
run with the remaining links as topologies, and starts from the weights in FOLDER. FOLDER/cut.csv
lists the removed links.
"""

import pprint
import textwrap
from collections.abc import Sequence

import ml_collections
from flax import traverse_util

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.ablation.removal import check_same_function, fitting_variables, smaller_network
from aggnets_jax.ablation.sets import StageLink, Stages
from aggnets_jax.buckets import is_url
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import AnyPath, PathLike, any_path, make_folder, write_text
from aggnets_jax.tables import csv_text
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


def check_new_folder(folder: PathLike) -> AnyPath:
    """Return the path of a new folder; raise `UserError` if something is in it."""
    path = any_path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder} exists already; give the name of a new folder")
    return path


def weights_fit(restored: Restored, stages: Stages, cut: Sequence[StageLink]) -> bool:
    """Return whether the shapes of weights can be cut to fit the network without some links."""
    try:
        fitting_variables(restored, stages, cut, smaller_network(restored, stages, cut))
    except UserError:
        return False
    return True


def export(
    restored: Restored,
    stages: Stages,
    cut: Sequence[StageLink],
    folder: PathLike,
    *,
    batch: data.Batch,
    seed: int | None = None,
) -> None:
    """Write a network without some links into a new folder, and print the next commands.

    If the weights can't be cut to fit, the reason is printed, and the folder has no weights. The
    network given has the variables of one seed, and is compared with the masked one on the batch.

    Raises:
      UserError: if there is no such network, or the folder is not new; nothing is written.
    """
    path = check_new_folder(folder)
    smaller = smaller_network(restored, stages, cut, seed)
    try:
        fitting = fitting_variables(restored, stages, cut, smaller)
        images = data.make_preprocess(restored.config.data, restored.info)(batch, train=False)
        check_same_function(restored, stages, cut, smaller, fitting, images)
    except UserError as error:
        fitting, reason = None, str(error)
    try:
        if fitting is not None:
            write_new_run(smaller.config, restored.info, fitting, path)
        make_folder(path)
        write_text(path / "cut.csv", cut_table(cut))
        weights = None if fitting is None else path
        write_text(path / "config.py", config_text(smaller.config, weights))
    except OSError as error:
        raise UserError(f"{folder} can't be written: {one_line(error)}") from error
    print(f"config without {len(cut)} links: {path / 'config.py'}", flush=True)
    if fitting is None:
        print(f"it trains from scratch, because the weights can't be exported: {reason}")
    else:
        print(f"its weights, checked against the network with cut links: --workdir={path}")


def cut_table(cut: Sequence[StageLink]) -> str:
    """Return the links as the text of a file that --cut takes."""
    records = [{"stage": stage, "layer": layer, "source": source} for stage, (layer, source) in cut]
    return csv_text(records, ("stage", "layer", "source"))


def config_text(config: ml_collections.ConfigDict, weights: AnyPath | None = None) -> str:
    """Return a config file with the fields of a whole config that differ from the defaults.

    `weights` is the folder of the file if training starts from the weights in it.
    """
    in_bucket = is_url(weights)  # from which a config file is copied before it is used
    start = repr(str(weights)) if in_bucket else "str(Path(__file__).parent)"
    default = config_lib.to_json(config_lib.default_config())
    changes = config_lib.changes(default, config_lib.to_json(config))
    fields = {name: value for name, (_, value) in changes.items()}
    if config.data.data_dir is not None:
        fields["data.data_dir"] = config.data.data_dir
    fields = traverse_util.unflatten_dict(fields, sep=".")
    # As literals: texts in a config may be anybody's.
    literal = pprint.pformat(fields, width=92, compact=True, sort_dicts=False)
    return _CONFIG.format(
        start=_FROM_HERE if weights else "Training starts from the initialisation.",
        imports="\nfrom pathlib import Path\n" if weights and not in_bucket else "",
        fields=textwrap.indent(literal, " " * 8),
        init_from=f"    config.init_from = {start}\n" if weights else "",
    )
