"""Tasks that networks are trained for, by the name in `config.task`."""

import ml_collections

from aggnets_jax.arguments import check_arguments, choose
from aggnets_jax.errors import UserError
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.tasks.detection import Detection
from aggnets_jax.tasks.multilabel import MultiLabel
from aggnets_jax.training.task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "detection": Detection,
    "multilabel": MultiLabel,
}


def get_task(config: ml_collections.ConfigDict) -> Task:
    """Return `config.task` with the arguments `config.task_args`; raise `UserError` if wrong."""
    if config.task == "link_weights":
        raise UserError(
            "config.task='link_weights' is for `aggnets learn` alone, which trains such a network"
            " and writes its pattern"
        )
    task = choose("config.task", TASKS, config.task)
    arguments = config.task_args.to_dict()
    check_arguments(f"task {config.task!r}", task, arguments)
    return task(**arguments)
