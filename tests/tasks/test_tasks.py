"""Tasks: their names, and that the loop trains one that classifies nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.errors import UserError
from aggnets_jax.tasks import TASKS, get_task
from aggnets_jax.tasks.classification import Examples
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.task import Evaluation, Task
from tests import runs


class Brightness(Task):
    """Estimates the mean of an image's pixels, and gathers the errors of all images."""

    sums = {"far": jnp.int32}  # noqa: RUF012
    logged = ("loss", "fit")
    shown = {"loss": ".4f", "fit": ".3f"}  # noqa: RUF012
    best = "fit"

    def train_data(self, config, **arguments):
        return data.train_data(config.data, batch_size=config.batch_size, **arguments)

    def eval_data(self, config, sharding):
        return data.eval_batches(config.data, batch_size=config.eval_batch_size, sharding=sharding)

    def make_prepare(self, model, preprocess, config):
        def prepare(batch, seed):
            images = preprocess(batch, train=True, seed=seed)
            return Examples(images, images.mean((1, 2, 3)), batch["label"])

        return prepare

    def make_loss(self, model, config):
        def loss_fn(params, batch_stats, examples, fixed, key):
            (logits, _), updated = model.apply(
                {"params": params, "batch_stats": batch_stats, **fixed},
                examples.images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            errors = logits[:, 0] - examples.targets
            sums = {"far": jnp.sum(jnp.abs(errors) > 0.1, dtype=jnp.int32)}
            return jnp.mean(errors**2), (updated["batch_stats"], sums)

        return loss_fn

    def train_metrics(self, totals, finite_steps, batch_size):
        return {"far": totals["far"] / (finite_steps * batch_size)}

    def make_eval_step(self, model, preprocess):
        def eval_step(variables, batch):
            images = preprocess(batch, train=False)
            logits, _ = model.apply(variables, images, train=False)
            return logits[:, 0] - images.mean((1, 2, 3)), batch["mask"]

        return eval_step

    def gather(self, gathered, outputs):
        return [*(gathered or []), tuple(map(np.asarray, outputs))]

    def finish(self, gathered):
        errors, masks = map(np.concatenate, zip(*gathered, strict=True))
        found = errors[masks]
        metrics = {"loss": np.mean(found**2), "fit": np.mean(np.abs(found) < 0.1)}
        return Evaluation(metrics, len(found), 0)


@pytest.mark.slow
def test_the_loop_trains_another_task_and_goes_on_with_it(data_dir, tmp_path, capsys):
    changes = {"log_every_steps": 2, "eval_every_steps": 2, "checkpoint_every_steps": 2}
    config = runs.tiny_config(data_dir, total_steps=4, accumulation_steps=2, **changes)
    task = Brightness()
    whole = train_and_evaluate(config, tmp_path / "whole", task=task)
    assert set(whole["final"]) == {"step", "loss", "fit", "examples"}
    assert whole["final"]["examples"] == 360
    lines = runs.metric_lines(tmp_path / "whole")
    assert [set(line) - {"step"} for line in lines] == [
        {"train/loss", "train/far", "train/learning_rate"},
        {"eval/loss", "eval/fit"},
    ] * 2
    assert "  fit 0." in capsys.readouterr().out
    train_and_evaluate({**config, "total_steps": 2}, tmp_path / "parts", task=task)
    parts = train_and_evaluate(config, tmp_path / "parts", task=task, allow_config_change=True)
    assert parts["fingerprint"] == whole["fingerprint"]
    assert runs.metrics(tmp_path / "parts") == runs.metrics(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "clasification"}, "unknown config.task 'clasification'; nearest: classification"),
        ({"task": "link_weights"}, "is for `aggnets learn` alone"),
        ({"task_args": {"anchors": 3}}, "task 'classification' has no argument 'anchors'"),
    ],
)
def test_tasks_that_there_are_not(changes, message):
    with pytest.raises(UserError, match=message):
        get_task(config_lib.resolve(changes))


def test_every_task_can_be_named_in_a_config():
    for name in TASKS:
        assert isinstance(get_task(config_lib.resolve({"task": name})), TASKS[name])
