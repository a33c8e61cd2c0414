"""Networks to and from the Hub: the same outputs, and nothing that is private or a pickle."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from aggnets_jax import create_model
from aggnets_jax.convert import to_torch, write_state_dict
from aggnets_jax.convert.on_hub import from_hub, write_repository
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.hub.conftest import hub  # noqa: F401
from tests.models.variables import random_variables

NAME = "hf-hub:user/net"
# Of the client itself, when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def pushed(hub, finished_run, capsys):  # noqa: F811
    assert main(["push", "hf://user/net", f"--workdir={finished_run}"]) == 0
    out = capsys.readouterr().out
    assert f"{finished_run} after step 12 is {NAME}: {hub.address}/user/net/commit/" in out
    return hub


def test_a_run_is_pushed_and_read(pushed, finished_run):
    files = pushed.repositories["user/net"]
    assert {*files} == {"README.md", "config.json", "model.safetensors"}
    assert pushed.messages == ["sparsenet10_k4 after step 12"]
    model, variables = from_hub(NAME)
    restored = restore_network(finished_run, "latest", replicated(make_mesh()))
    assert model == create_model("sparsenet10_k4", 10, dropout=0.1) == create_model(NAME)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.device_get(restored.variables))


def test_what_a_repository_says(pushed, finished_run, data_dir):
    files, summary = pushed.repositories["user/net"], runs.summary(finished_run)
    config = json.loads(files["config.json"])
    assert config["architecture"] == "sparsenet10_k4"
    assert config["num_classes"] == 10
    assert config["label_names"] == [str(n) for n in range(10)]
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert data_dir not in files["config.json"].decode()

    from huggingface_hub import ModelCard

    card = ModelCard(files["README.md"].decode())
    results = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert results["accuracy"] == summary["final"]["accuracy"]
    assert card.data.eval_results[0].dataset_name == "aggnets_digits"
    assert f"{summary['network']['params']:,}" in card.text
    assert str(finished_run) not in card.text


def test_training_starts_from_the_hub(pushed, finished_run, data_dir, tmp_path, capsys):
    file = runs.write_config(
        tmp_path / "next.py", runs.tiny_config(data_dir, init_from=NAME, total_steps=1, lr=0.0)
    )
    assert main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 0
    assert f"starting from {NAME}\n" in capsys.readouterr().out
    # With a learning rate of 0 the parameters are the pushed ones.
    assert (
        runs.summary(tmp_path / "run")["fingerprint"] == runs.summary(finished_run)["fingerprint"]
    )


def test_timms_layout_is_converted(hub, tmp_path, capsys):  # noqa: F811
    name = "densenet_bc16_k4"
    model = create_model(name, 4)
    variables = random_variables(model, 32, np.float32)
    state_dict = to_torch(name, variables, num_classes=4, dialect="timm")
    state_dict = {key: np.ascontiguousarray(value) for key, value in state_dict.items()}
    hub.repositories["timm/net.tv_in1k"] = {
        "config.json": json.dumps(
            {
                "architecture": name,
                "num_classes": 4,
                "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.6]},
            }
        ).encode(),
        "model.safetensors": safetensors.numpy.save(state_dict, {"format": "pt"}),
    }
    found, read = from_hub("hf-hub:timm/net.tv_in1k")
    assert found == model
    jax.tree.map(np.testing.assert_array_equal, read, variables)

    workdir = tmp_path / "run"
    arguments = ["--from_torch=hf-hub:timm/net.tv_in1k", f"--config.model.name={name}"]
    assert main(["convert", *arguments, f"--workdir={workdir}"]) == 0
    assert "images of 32x32x3, mean (0.4, 0.5, 0.6)" in capsys.readouterr().out
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.variables), variables)


def test_facts_of_the_file_do_not_hide_those_of_the_repository(hub, tmp_path):  # noqa: F811
    """Weights of `aggnets convert --to_torch` have facts of their own."""
    name = "densenet_bc16_k4"
    model = create_model(name, 4)
    variables = random_variables(model, 32, np.float32)
    facts = {"class_names": [*"abcd"], "image_shape": [32, 32, 3], "mean": [0.5], "std": [1.0]}
    file = tmp_path / "w.safetensors"
    write_state_dict(file, to_torch(name, variables, num_classes=4), facts)
    config = {"architecture": name, "num_classes": 4, "pretrained_cfg": {"mean": ["x"]}}
    repository = {"model.safetensors": file.read_bytes()}
    hub.repositories["user/net"] = repository
    repository["config.json"] = json.dumps(config).encode()
    with pytest.raises(
        UserError, match=r"config\.json is damaged: pretrained_cfg.mean.0. must be a number"
    ):
        from_hub(NAME)
    del config["pretrained_cfg"]
    repository["config.json"] = json.dumps(config).encode()
    found, read = from_hub(NAME)
    assert found == model
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_what_can_not_be_pushed(hub, finished_run, tmp_path, capsys):  # noqa: F811
    for name, message in (
        ("user/net", "is no repository; the form is hf-hub:USER/NAME[@REVISION] or hf://USER/NAME"),
        ("hf://somebody/net", "hf://somebody/net: "),
    ):
        assert main(["push", name, f"--workdir={finished_run}"]) == 2
        assert message in capsys.readouterr().err
    assert not hub.repositories
    restored = restore_network(finished_run, "latest", replicated(make_mesh()))
    restored.config.task = "detection"
    with pytest.raises(UserError, match="push is for classification"):
        write_repository(tmp_path, restored, finished_run, "user/net")


def test_what_tells_of_the_machine_stays_here(finished_run, tmp_path):
    restored = restore_network(finished_run, "latest", replicated(make_mesh()))
    given = {"teacher": "/home/me/teacher", "trackers": ("mlflow",)}
    restored.config.update(given | {"tracker_args": {"mlflow": {"tracking_uri": "user:secret@a"}}})
    write_repository(tmp_path, restored, finished_run, "user/net")
    text = (tmp_path / "config.json").read_text()
    assert not any(word in text for word in ("/home/me", "secret", "mlflow"))


def test_a_card_has_the_metrics_of_its_task(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    summary = runs.summary(workdir)
    final = {"step": 12, "mAP": 0.625, "F1": 0.5, "loss": 0.25, "examples": 6}
    of_seed = {**summary["seeds"][0], "final": final, "best": final}
    summary |= {"final": final, "best": final, "seeds": [of_seed]}
    (workdir / "summary.json").write_text(json.dumps(summary))
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    restored.config.task = "multilabel"
    write_repository(tmp_path / "hub", restored, workdir, "user/net")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "62.50%" in text and "0.2500" in text and "type: mAP" in text


def test_images_of_several_labels_are_padded_and_not_cropped(finished_run, tmp_path):
    restored = restore_network(finished_run, "latest", replicated(make_mesh()))
    restored = restored._replace(info=dataclasses.replace(restored.info, resized=True))
    for task, expected in (("classification", 224 / 256), ("multilabel", 1.0)):
        restored.config.task = task
        write_repository(tmp_path / task, restored, finished_run, "user/net")
        told = json.loads((tmp_path / task / "config.json").read_text())["pretrained_cfg"]
        assert told["crop_pct"] == expected
        assert told.get("crop_mode") == ("border" if task == "multilabel" else None)
