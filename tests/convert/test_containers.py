"""Weights are found in checkpoints of other programs, without their prefixes."""

import numpy as np
import pytest

from aggnets_jax.convert import read_state_dict
from aggnets_jax.convert.containers import find_weights, take_off_prefix, take_off_wrappers
from tests.patterns import one_line_error

NAMES = {"conv.weight": np.ones(1), "fc.weight": np.zeros(1)}


def prefixed(prefix, names=NAMES):
    return {prefix + key: value for key, value in names.items()}


def found(content, entry=None):
    return find_weights("f.pth", content, lambda value: isinstance(value, np.ndarray), entry)


@pytest.mark.parametrize(
    ("state_dict", "taken"),
    [
        (prefixed("module."), "module."),
        (prefixed("_orig_mod."), "_orig_mod."),
        (prefixed("_orig_mod.module."), "_orig_mod.module."),
        (prefixed("module._orig_mod."), "_orig_mod.module."),
        (prefixed("model."), "model."),
        (prefixed("model.module."), "model.module."),
        ({"n_averaged": np.array(5), **prefixed("module.")}, "module."),
        ({"conv._orig_mod.weight": np.ones(1), "fc.weight": np.zeros(1)}, "_orig_mod."),
    ],
)
def test_wrappers_are_taken_off_and_told(state_dict, taken, capsys):
    assert take_off_wrappers("f.pth", state_dict) == NAMES
    assert capsys.readouterr().out == f"f.pth: the names' prefix {taken!r} is taken off\n"


@pytest.mark.parametrize(
    "state_dict", [NAMES, {**prefixed("module."), "fc.bias": np.ones(1)}, {"n_averaged": 1}]
)
def test_names_that_are_not_wrapped_stay(state_dict, capsys):
    assert take_off_wrappers("f.pth", state_dict) == state_dict
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "average", ["state_dict_ema", "model_ema", "ema", "ema_state", "swa_model"]
)
def test_the_entry_that_is_no_average_is_read_unless_told(average, capsys):
    other = {key: value + 1 for key, value in NAMES.items()}
    content = {average: other, "state_dict": NAMES, "epoch": 3}
    assert found(content) is NAMES
    assert f"weights, too, are in {average!r}" in capsys.readouterr().out
    assert found(content, average) is other
    assert found({average: other, "epoch": 3}) is other
    message = one_line_error(found, content, "state")
    assert "unknown entry of f.pth with weights 'state'" in message and "state_dict" in message


def test_an_entry_may_be_inside_of_another():
    other = {key: value + 1 for key, value in NAMES.items()}
    state = {0: {"exp_avg": np.ones(1)}}
    content = {"model": {"state_dict": NAMES, "args": "a"}, "optimizer": {"state": state}}
    assert found(content) is NAMES
    assert found({**content, "ema": {"state_dict": other}}, "ema.state_dict") is other
    message = one_line_error(found, content, "state")
    assert "nearest: model.state_dict" in message or "allowed: model.state_dict" in message


def test_an_entry_may_be_a_prefix():
    both = {**prefixed("model."), **prefixed("ema_model.", {"conv.weight": np.zeros(1)})}
    assert found(both, "ema_model") == {"conv.weight": np.zeros(1)}
    message = "unknown entry of f.pth with weights 'other'; allowed: ema_model, model"
    assert one_line_error(found, both, "other") == message


@pytest.mark.parametrize("prefix", ["ema_model.module", "ema_model.module.", "ema_model"])
def test_an_average_beside_the_weights_may_be_chosen_by_its_prefix(prefix):
    """As Lightning's modules with two networks have them in their only entry."""
    averages = {key: value + 1 for key, value in NAMES.items()}
    both = {**prefixed("model."), **prefixed("ema_model.module.", averages)}
    content = {"state_dict": both, "epoch": 3}
    for entry in (prefix, f"state_dict.{prefix}"):
        assert take_off_wrappers("f.pth", found(content, entry)) == averages
    assert found(content, "state_dict") is both
    message = one_line_error(found, content, "nothing")
    assert message.endswith("allowed: state_dict, state_dict.ema_model, state_dict.model")
    several = {**content, "swa": prefixed("ema_model.")}
    assert "'state_dict.ema_model', 'swa.ema_model'" in one_line_error(found, several, "ema_model")
    assert found(several, "swa.ema_model") == NAMES


def test_many_parts_of_a_network_are_not_listed_as_prefixes():
    content = {"net": {f"conv{n}.weight": np.ones(1) for n in range(30)}, "swa": NAMES, "epoch": 3}
    message = one_line_error(found, content, "x")
    assert message.endswith("'x'; allowed: net, swa, swa.conv, swa.fc")
    assert found(content, "conv7") == {"weight": np.ones(1)}


def test_a_prefix_before_the_names_of_a_network_is_taken_off(capsys):
    known = [{"conv.weight": "a", "fc.weight": "b"}, {"features.0.weight": "a"}]
    averages = {key: value + 1 for key, value in NAMES.items()}
    state_dict = {
        **prefixed("net.ema_model.", averages),
        **prefixed("net.encoder."),
        "loss.weight": np.ones(1),
    }
    assert take_off_prefix(state_dict, known) == NAMES
    told = capsys.readouterr().out
    assert "prefix 'net.encoder.' is taken off; 3 others" in told
    assert take_off_prefix(NAMES, known) is NAMES
    strange = {"a.b": np.ones(1), 3: np.ones(1)}
    assert take_off_prefix(strange, known) is strange
    assert capsys.readouterr().out == ""


def test_files_of_pytorch(tmp_path):
    """As `torch.save` writes them from wrapped networks."""
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value) for key, value in NAMES.items()}
    module = {"n_averaged": torch.tensor(5), **prefixed("module.", tensors)}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    lightning = {
        "state_dict": prefixed("model.", tensors),
        "pytorch-lightning_version": "2.0",
        "optimizer_states": [optimizer],
    }
    both = {"state_dict": tensors, "state_dict_ema": prefixed("module.", tensors), "epoch": 1}
    for content in (module, prefixed("_orig_mod.", tensors), lightning, both):
        torch.save(content, tmp_path / "w.pth")
        read = read_state_dict(tmp_path / "w.pth")
        assert sorted(read) == sorted(NAMES)
        assert all(np.array_equal(read[key], NAMES[key]) for key in NAMES)


@pytest.mark.parametrize("name", ["model", "module", "_orig_mod"])
def test_a_name_is_no_prefix(name):
    assert take_off_wrappers("f.pth", {name: np.ones(1)}) == {name: np.ones(1)}


def test_two_names_do_not_become_one():
    names = {"_orig_mod.a": np.ones(1), "a": np.zeros(1)}
    message = one_line_error(take_off_wrappers, "f.pth", names)
    assert "'_orig_mod.a' and 'a' are one name without their prefix" in message
