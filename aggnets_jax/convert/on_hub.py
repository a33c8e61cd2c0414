"""Networks to and from the Hugging Face Hub: `aggnets push`, and weights by "hf-hub:USER/NAME"."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from flax import linen as nn

import aggnets_jax
from aggnets_jax import config as config_lib
from aggnets_jax import hub
from aggnets_jax.convert import OWN, from_torch, read_state_dict, to_torch, write_state_dict
from aggnets_jax.convert.files import read_metadata
from aggnets_jax.convert.variants import epsilon_of_variant
from aggnets_jax.data import DatasetInfo
from aggnets_jax.data.decoding import EVAL_RESIZE
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath, PathLike, any_path, write_json, write_text
from aggnets_jax.models import create_model
from aggnets_jax.models.on_hub import network_on_hub
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tables import markdown
from aggnets_jax.workdir.folder import SUMMARY, read_summary
from aggnets_jax.workdir.restore import Restored, restore_network

# Fields of a config that tell of a machine, not of a network.
_OF_MACHINE = (
    *("data_dir", "file", "init_checkpoint", "init_from"),
    *("teacher", "teacher_args", "teacher_checkpoint"),
    *("trackers", "tracker_args"),
)


def from_hub(name: str, **overrides: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network on the Hugging Face Hub, and its variables.

    Args:
      name: "hf-hub:USER/NAME", of this package or of timm for a network that both have.
      **overrides: as for `create_model`; they must leave the shapes of the weights.

    Returns:
      The module, and "params" and "batch_stats" as NumPy arrays.

    Raises:
      UserError: if there is no such repository, or its weights do not fit its network.
    """
    network, classes, arguments = network_on_hub(name)
    arguments |= overrides
    metadata = read_metadata(name)
    variables = from_torch(
        network,
        read_state_dict(name),
        num_classes=classes,
        input_shape=metadata.get("image_shape"),
        epsilon=epsilon_of_variant(metadata, arguments),
        **arguments,
    )
    return create_model(network, classes, **arguments), variables


def push(
    workdir: PathLike,
    name: str,
    *,
    which: str = "latest",
    seed: int | None = None,
    private: bool = False,
) -> None:
    """Write the network of a run to the Hugging Face Hub, with a card made from its summary.

    Args:
      workdir: of the run.
      name: "hf://USER/NAME"; the repository is made if it is not there.
      which: checkpoint, as for `restore_network`.
      seed: of a run with several.
      private: whether a new repository is private.

    Raises:
      UserError: no such checkpoint, a detector, or the Hub refuses or can't be reached.
    """
    repository = hub.parse(name)
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    restored = restore_network(workdir, which, everywhere)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_repository(folder, restored, any_path(workdir), repository.name, seed)
        message = f"{restored.config.model.name} after step {restored.step}"
        address = hub.upload(name, folder, message=message, private=private)
    print(f"{workdir} after step {restored.step} is hf-hub:{repository.name}: {address}")


def write_repository(
    folder: Path, restored: Restored, workdir: AnyPath, name: str, seed: int | None = None
) -> None:
    """Write the files of a repository, of this name, for a restored network.

    Raises:
      UserError: for a detector.
    """
    config, info = restored.config, restored.info
    if config.task == "detection":
        raise UserError("push is for classification, and this is a run of detection")
    state_dict = to_torch(
        config.model.name,
        restored.variables_at(seed),
        num_classes=info.num_classes,
        input_shape=info.image_shape,
        dialect=OWN,
        **config_lib.model_arguments(config),
    )
    state_dict = {key: x for key, x in state_dict.items() if not key.endswith("_tracked")}
    write_state_dict(folder / hub.WEIGHTS, state_dict)
    write_json(folder / hub.CONFIG, _config_json(config, info, restored.step))
    summary = read_summary(workdir) if (workdir / SUMMARY).exists() else None
    write_text(folder / hub.CARD, _card(restored, summary, name, seed))


def _config_json(config: ml_collections.ConfigDict, info: DatasetInfo, step: int) -> dict[str, Any]:
    """Return `config.json`: timm's fields, and the config without paths and trackers."""
    height, width, channels = info.image_shape
    own = config_lib.to_json(config)
    for group in (own, own["data"]):
        for field in _OF_MACHINE:
            group.pop(field, None)
    crop = {"crop_pct": 1 / EVAL_RESIZE if info.resized else 1.0}
    if config.task == "multilabel":  # whole images with a border, without a crop
        crop = {"crop_pct": 1.0, "crop_mode": "border"}
    return {
        "architecture": config.model.name,
        "num_classes": info.num_classes,
        "label_names": list(info.class_names),
        "pretrained_cfg": {
            "input_size": [channels, height, width],
            "mean": list(info.mean),
            "std": list(info.std),
            "interpolation": "bilinear",
            **crop,
            "num_classes": info.num_classes,
        },
        "step": step,
        "version": aggnets_jax.__version__,
        hub.OWN: own,
    }


def _card(
    restored: Restored, summary: Mapping[str, Any] | None, name: str, seed: int | None
) -> str:
    """Return the model card: the network, how it is used, and its evaluation if there is one."""
    from huggingface_hub import EvalResult, ModelCardData

    config, info = restored.config, restored.info
    found = _evaluation(summary, seed, restored.step) if summary else None
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=info.name,
            dataset_name=info.name,
            dataset_split=info.eval_split,
            metric_type=name,
            metric_value=value,
        )
        for name, value in (_metrics(found) if found else {}).items()
        if name != "loss"
    ]
    facts = ModelCardData(
        library_name="aggnets_jax",
        pipeline_tag="image-classification",
        tags=["jax", "flax", "aggregation-network"],
        model_name=name,
        eval_results=results or None,
    )
    return _PAGE.format(
        facts=facts.to_yaml(),
        title=name,
        network=config.model.name,
        data=info.name,
        step=restored.step,
        classes=info.num_classes,
        size="x".join(map(str, info.image_shape)),
        table=markdown([_row(summary, found)]) if found else "No evaluation is known.",
        name=name,
        version=aggnets_jax.__version__,
    )


def _evaluation(
    summary: Mapping[str, Any], seed: int | None, step: int
) -> Mapping[str, Any] | None:
    """Return the evaluation of a seed after a step, if the run has made one."""
    runs = [each for each in summary["seeds"] if seed in (None, each["seed"])]
    made = [each[which] for each in runs for which in ("final", "best")]
    return next((found for found in made if found.get("step") == step), None)


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return what an evaluation has measured, whatever the task; not its step and its images."""
    return {name: value for name, value in evaluation.items() if isinstance(value, float)}


def _row(summary: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, str]:
    network = summary["network"]
    return {
        "links": f"{network['links']:,}",
        "parameters": f"{network['params']:,}",
        "multiply-adds": f"{network['macs']:,}",
        **{
            name.replace("_", " "): f"{value:.4f}" if name == "loss" else f"{value:.2%}"
            for name, value in _metrics(final).items()
        },
        "devices": str(summary["hardware"]),
        "commit": str(summary["commit"]),
    }


_PAGE = """---
{facts}
---

# {title}

`{network}`, trained with aggnets_jax {version} on `{data}` for {step} steps: images of {size},
{classes} classes.

{table}

## Use it

```python
from aggnets_jax.convert.on_hub import from_hub

model, variables = from_hub("hf-hub:{name}")
logits, endpoints = model.apply(variables, images)  # normalised as `config.json` says
```

    aggnets train --config=CONFIG --workdir=NEW --config.init_from=hf-hub:{name}
"""
