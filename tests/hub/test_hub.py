"""Files of repositories on the Hub, and what can be wrong with them."""

import json
import os
import subprocess
import sys

import pytest

from aggnets_jax import create_model
from aggnets_jax import hub as hub_lib
from aggnets_jax.errors import UserError
from tests.marks import mostly_slow

NAME = "hf-hub:user/net"


@pytest.mark.parametrize("name", ["hf-hub:user/net@v1", "hf://user/net@v1"])
def test_names(name):
    assert hub_lib.is_on_hub(name)
    assert hub_lib.parse(name) == ("user/net", "v1")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("hf-hub:net", "hf-hub:"),
        ("hf://a/b/c", "hf://"),
        ("hf-hub:user/net@", "hf-hub:"),
        ("user/net", "hf-hub:"),
    ],
)
def test_other_names_are_refused(name, prefix):
    with pytest.raises(UserError, match=rf"the form is {prefix}USER/NAME\[@REVISION\]"):
        hub_lib.parse(name)


def put(hub, content):
    hub.repositories["user/net"] = {"config.json": json.dumps(content).encode()}


def test_a_network_of_timm(hub):
    put(hub, {"architecture": "densenet121", "num_classes": 7})
    model = create_model(NAME, dtype="bfloat16")
    assert model == create_model("densenet121", 7, dtype="bfloat16")
    assert create_model(NAME, 3).num_classes == 3
    with pytest.raises(UserError, match="num_classes"):
        create_model(NAME, 0)

    put(hub, {"architecture": "tf_efficientnet_b0", "num_classes": 1000})
    assert create_model(NAME).padding == "same"


def test_a_second_read_needs_no_network_but_the_answer_that_nothing_changed(hub):
    put(hub, {"architecture": "densenet121"})
    hub_lib.read_config(NAME)
    first = len(hub.requests)
    assert hub_lib.read_config(NAME)["architecture"] == "densenet121"
    assert hub.requests[first:] == ["HEAD /user/net/resolve/main/config.json"]


@mostly_slow(
    ("content", "message"),
    [
        ({}, "config.json of hf-hub:user/net is damaged: architecture must be a line of text"),
        ({"architecture": "densnet121"}, "unknown model 'densnet121'; nearest: densenet121"),
        ({"architecture": "hf-hub:user/net"}, "unknown model 'hf-hub:user/net'"),
        ({"architecture": "densenet121", "num_classes": "many"}, "num_classes in config.json"),
        ({"architecture": "a", "aggnets_jax": 3}, "aggnets_jax must be a config"),
        ({"architecture": "a", "aggnets_jax": {"lrr": 1}}, "lrr"),
    ],
    quick=(0, 1, 4),
)
def test_damaged_configs(hub, content, message):
    put(hub, content)
    with pytest.raises(UserError, match=".*" + message.replace("[", r"\[")):
        create_model(NAME)


def test_modules_that_a_repository_names_are_not_imported(hub, monkeypatch, tmp_path):
    (tmp_path / "foreign_plugin.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    own = {"model": {"name": "sparsenet10_k4"}, "plugins": ["foreign_plugin"]}
    put(hub, {"architecture": "sparsenet10_k4", "num_classes": 5, "aggnets_jax": own})
    assert create_model(NAME).num_classes == 5


def test_what_is_not_there(hub, monkeypatch):
    with pytest.raises(UserError, match="there is no repository hf-hub:user/other, or it is priv"):
        hub_lib.read_config("hf-hub:user/other")
    hub.repositories["user/net"] = {"pytorch_model.bin": b""}
    with pytest.raises(UserError, match=r"hf-hub:user/net has no config\.json"):
        hub_lib.read_config(NAME)
    put(hub, {"architecture": "densenet121"})
    with pytest.raises(UserError, match=r"no model.safetensors \(pickles are not read\)"):
        hub_lib.download_weights(NAME)
    with pytest.raises(UserError, match="there is no such revision"):
        hub_lib.read_config(f"{NAME}@v2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"config\.json .* is not on this mach"):
        hub_lib.read_config("hf-hub:user/third")
    assert hub_lib.read_config(NAME)["architecture"] == "densenet121"  # kept from before


def test_a_hub_that_can_not_be_reached_is_one_line(tmp_path):
    """In a process of its own: the client's logger writes to the first standard error."""
    pytest.importorskip("huggingface_hub")
    program = """
import sys, time
time.sleep = lambda seconds: None  # between the client's tries
from aggnets_jax import errors, hub
try:
    hub.read_config("hf-hub:nobody/doesnotexist")
except errors.UserError as error:
    print("error:", error, file=sys.stderr)
"""
    there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env={**os.environ, **there}, capture_output=True, text=True)
    assert answer.stderr == (
        "error: the Hub can't be reached, and config.json of hf-hub:nobody/doesnotexist is not on"
        " this machine\n"
    )


def test_a_missing_client_is_one_line(monkeypatch):
    for module in ("huggingface_hub", "huggingface_hub.errors"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"huggingface_hub: pip install 'aggnets-jax\[hub\]'"):
        create_model(NAME)
