"""PyTorch's networks in turn with ours; what needs PyTorch is skipped where it is not installed."""

import json
import sys

import jax
import numpy as np
import pytest

from aggnets_jax.benchmark import against_torch
from aggnets_jax.benchmark.contenders import Contender
from aggnets_jax.benchmark.workload import Workload, abstract_variables, random_variables
from aggnets_jax.data import as_they_are
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import initial_state
from aggnets_jax.training.step import make_train_step
from tests.benchmark.test_run import NETWORK

WORKLOAD = Workload("sparsenet", 8, (8, 8, 3), {"depth": 7, "growth_rate": 4})

OURS = Contender("sparsenet", "default", 0, 0, lambda mode, batch_size: None)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def variables():
    return random_variables(abstract_variables(WORKLOAD.create(), WORKLOAD.image_shape))


def test_without_torch_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["benchmark", *NETWORK, "--against=torch"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--against=torch needs PyTorch: pip install 'aggnets-jax[torch]'" in error


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_logits_are_the_same(torch, variables, mode):
    from aggnets_jax.benchmark.torch_networks.program import difference

    assert difference(WORKLOAD, variables, mode) < 1e-5


def test_steps_of_training_are_the_same(torch, variables):
    from aggnets_jax.benchmark.torch_networks import program

    model, config = WORKLOAD.create(), WORKLOAD.config()
    optimizer, _ = make_optimizer(config, 10_000, 10_000)
    batch = WORKLOAD.random_batch()
    state = initial_state(variables, optimizer, config, 0, Classification.sums)
    step = jax.jit(make_train_step(Classification(), model, optimizer, as_they_are, config))
    module = program.make_module(WORKLOAD, variables).train()
    theirs = program.train_step(WORKLOAD, module)
    labels = torch.from_numpy(np.array(batch["label"])).long()
    for _ in range(2):
        state = step(state, batch)
        theirs(program.torch_images(batch["image"]), labels)
    kernel = state.params["stem_conv"]["kernel"]
    weight = module.state_dict()["stem_conv.weight"].numpy()
    assert np.abs(kernel - variables["params"]["stem_conv"]["kernel"]).max() > 1e-3
    np.testing.assert_allclose(weight.transpose(2, 3, 1, 0), kernel, rtol=1e-4, atol=1e-5)


def test_forms_take_turns_with_ours(torch, tmp_path):
    file = tmp_path / "rows.json"
    arguments = [*NETWORK, "--modes=eval", "--against=torch", f"--json={file}"]
    assert main(["benchmark", *arguments]) == 0
    record = json.loads(file.read_text())
    ours, *rows = record["rows"]
    assert ours["difference"] is None
    assert [row["form"] for row in rows] == ["torch eager", "torch channels_last"]
    assert all(row["against"] == "sparsenet default" and row["ratio"] > 0 for row in rows)
    assert all(0 < row["difference"] < 1e-5 for row in rows)
    assert f"torch {torch.__version__.partition('+')[0]}" in record["versions"]


def test_another_function_is_refused(torch, variables, monkeypatch):
    from aggnets_jax.benchmark.torch_networks import program

    def load(module, variables):
        kernel = variables["params"]["stem_conv"]["kernel"] * 1.01
        params = {**variables["params"], "stem_conv": {"kernel": kernel}}
        load_variables(module, {**variables, "params": params})

    load_variables = program.load_variables
    monkeypatch.setattr(program, "load_variables", load)
    with pytest.raises(UserError, match="sparsenet is another function in PyTorch: in mode eval"):
        against_torch.torch_forms(WORKLOAD, OURS, None)


def test_unknown_forms_are_refused(torch):
    with pytest.raises(UserError, match="unknown form of torch 'compiled'; nearest: compile"):
        against_torch.torch_forms(WORKLOAD, OURS, ["eager", "compiled"])


def test_modes_without_a_program_are_refused(capsys):
    assert main(["benchmark", *NETWORK, "--modes=eval,ablation", "--against=torch"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --against=torch is for the modes train and eval, not ablation\n"
