"""Configs: merging, types, overrides, and what is refused."""

import json

import ml_collections
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from tests import runs
from tests.patterns import one_line_error

DEFAULT = runs.ROOT / "configs" / "default.py"


def test_a_config_says_only_what_differs():
    config = config_lib.resolve({"lr": 0.3, "model": {"name": "densenet40_k12"}})
    assert (config.lr, config.model.name) == (0.3, "densenet40_k12")
    assert config.batch_size == config_lib.default_config().batch_size


def test_config_dicts_and_their_json_resolve_to_themselves():
    given = ml_collections.ConfigDict(
        {
            "schedule": "step",
            "schedule_args": {"boundaries": (0.3, 0.6)},
            "model": {"topology": ("dense", "sparse", "plain"), "topology_args": {"base": 3}},
            "data": {"mean": (0.1,), "image_size": 64},
        }
    )
    once = config_lib.resolve(given)
    data = json.loads(json.dumps(config_lib.to_json(once)))
    assert config_lib.to_json(config_lib.resolve(data)) == data


def test_every_field_of_the_default_is_documented():
    lines = DEFAULT.read_text().splitlines()
    fields = [n for n, line in enumerate(lines) if line.strip().startswith("config.")]
    assert len(fields) > 30
    # Beside it, or above the group that it stands in.
    for n in fields:
        above = next(line for line in reversed(lines[:n]) if "config." not in line)
        assert "#" in lines[n] or "#" in above, lines[n]


def test_a_config_file_may_return_a_dict(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("def get_config():\n    return {'lr': 0.5, 'model': {'args': {'depth': 40}}}")
    config = config_lib.load(str(file), ["model.args.growth_rate=12"])
    assert config.lr == 0.5
    assert config.model.args.to_dict() == {"depth": 40, "growth_rate": 12}


def test_parts_of_one_image_are_refused():
    message = one_line_error(config_lib.resolve, {"batch_size": 4, "accumulation_steps": 4})
    assert "one image in each part" in message and message.endswith("allowed: at most 2")
    config_lib.resolve({"batch_size": 1})


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("lr=0.2", lambda c: c.lr, 0.2),
        ("lr=1", lambda c: c.lr, 1.0),
        ("total_steps=7", lambda c: c.total_steps, 7),
        ("nesterov=false", lambda c: c.nesterov, False),
        ("dtype=bfloat16", lambda c: c.dtype, "bfloat16"),
        ("profile_steps=(2,3)", lambda c: c.profile_steps, (2, 3)),
        ("model.topology=windowed", lambda c: c.model.topology, "windowed"),
        ("model.topology=('dense','plain')", lambda c: c.model.topology, ("dense", "plain")),
        ("model.topology_args.base=3", lambda c: dict(c.model.topology_args), {"base": 3}),
        ("task_args.a.b.c=8", lambda c: c.task_args.to_dict(), {"a": {"b": {"c": 8}}}),
        ("trackers=wandb", lambda c: c.trackers, ("wandb",)),
        ("model.topology_args={'base': 3}", lambda c: dict(c.model.topology_args), {"base": 3}),
        ("model.args.bottleneck=false", lambda c: c.model.args.to_dict(), {"bottleneck": False}),
        ("model.args.depth=40", lambda c: c.model.args.to_dict(), {"depth": 40}),
        ("data.image_size=64", lambda c: c.data.image_size, 64),
        ("data.image_size=None", lambda c: c.data.image_size, None),
        ("data.data_dir=gs://bucket/a=b", lambda c: c.data.data_dir, "gs://bucket/a=b"),
        ("data.name=123", lambda c: c.data.name, "123"),
    ],
)
def test_overrides(override, read, value):
    assert read(config_lib.load(str(DEFAULT), [override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lrr=1", "unknown config field 'lrr'; nearest: lr"),
        ("modle.name=x", "unknown config field 'modle.name'; nearest: model.name"),
        ("model.nmae=x", "nearest: model.name"),
        ("lr=fast", "config.lr must be of type float, got 'fast'"),
        ("lr=nan", "config.lr must be at least 0 and finite, got nan"),
        ("total_steps=100000000000", "below 2**31"),
        ("data.mean=(True,)", "finite numbers"),
        ("model.args={'depth': {1}}", "must be plain data"),
        ("profile_steps=(True, 2)", "profile_steps must be"),
        ("lr=-1", "config.lr must be at least 0"),
        ("total_steps=1.5", "config.total_steps must be of type int"),
        ("total_steps=True", "config.total_steps must be of type int"),
        ("total_steps=0", "config.total_steps must be at least 1"),
        ("seed=-1", "config.seed must be between"),
        ("nesterov=maybe", "config.nesterov must be of type bool"),
        ("model=densenet40_k12", "config.model is a group of fields"),
        ("model.topology_args=3", "must be a mapping of arguments"),
        ("model.args=(1,)", "must be a mapping of arguments"),
        ("data.image_size=big", "config.data.image_size must be of type int"),
        ("lr=None", "config.lr must be of type float"),
        ("momentum=1", "config.momentum must be in"),
        ("dtype=float16", "unknown config.dtype 'float16'"),
        ("weight_decay_on=weights", "unknown config.weight_decay_on"),
        ("accumulation_steps=3", "not divisible"),
        ("profile_steps=(3,)", "profile_steps must be"),
        ("profile_steps=(5,3)", "profile_steps must be"),
        ("lr", "must have the form"),
    ],
)
def test_overrides_that_are_refused(override, message):
    with pytest.raises(UserError) as error:
        config_lib.load(str(DEFAULT), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "get_config"),
        ("def get_config():\n    return 1.0", "must return a ConfigDict or a dict, not float"),
        ("def get_config():\n\n    return 1 / 0", "broken.py, line 3: ZeroDivisionError"),
        ("x = 1\nimport nowhere_to_be_found", "broken.py, line 2: ModuleNotFoundError"),
        ("def get_config(text):\n    return {}", "get_config() missing 1 required"),
        ("x = 1\n\ny = (", "broken.py, line 3: SyntaxError"),
        (
            "import ml_collections\ndef get_config():\n"
            "    return ml_collections.ConfigDict({'lrr': 1.0})",
            "nearest: lr",
        ),
        (
            "from aggnets_jax.config import default_config\ndef get_config():\n"
            "    config = default_config()\n    config.lrr = 1.0\n    return config",
            "lrr",
        ),
    ],
)
def test_broken_config_files_are_told_in_one_line(text, message, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        config_lib.load(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


REFERENCES = """
import ml_collections
from ml_collections import config_dict


def get_config():
    config = ml_collections.ConfigDict()
    config.batch_size = 256
    config.lr = config.get_ref("batch_size") * (0.1 / 256)
    config.eval_batch_size = config.get_ref("batch_size")
    config.seed = config.get_oneway_ref("batch_size")
    config.schedule_args = ml_collections.ConfigDict(
        {"warmup_steps": config.get_ref("batch_size") * 2}
    )
    return config


def sweep():
    yield "same", {}
    yield "small", {"batch_size": 32}
"""


@pytest.mark.parametrize(
    ("row", "overrides", "expected"),
    [  # batch size, learning rate, batch size of the evaluation, seed, steps of the warm-up
        ("same", [], (256, 0.1, 256, 256, 512)),
        ("same", ["batch_size=64"], (64, 0.025, 64, 64, 128)),
        ("small", [], (32, 0.0125, 32, 32, 64)),
        ("small", ["batch_size=64"], (64, 0.025, 64, 64, 128)),
        ("small", ["lr=0.5"], (32, 0.5, 32, 32, 64)),
        ("same", ["eval_batch_size=64"], (64, 0.025, 64, 64, 128)),  # one value for both
        ("same", ["seed=64"], (256, 0.1, 256, 64, 512)),
        ("same", ["batch_size=64", "schedule_args.warmup_steps=9"], (64, 0.025, 64, 64, 9)),
    ],
)
def test_fields_follow_the_fields_that_they_refer_to(row, overrides, expected, tmp_path):
    file = tmp_path / "references.py"
    file.write_text(REFERENCES)
    config = config_lib.load(f"{file}:{row}", overrides)
    names = ("batch_size", "lr", "eval_batch_size", "seed")
    assert (*(config[name] for name in names), config.schedule_args.warmup_steps) == expected
    assert json.loads(json.dumps(config_lib.to_json(config)))["lr"] == config.lr


REQUIRED = """
import ml_collections
from ml_collections import config_dict


def get_config():
    config = ml_collections.ConfigDict()
    config.total_steps = config_dict.required_placeholder(int)
    config.model = {"name": config_dict.required_placeholder(str), "args": {"depth": 40}}
    return config
"""


def test_required_values(tmp_path):
    file = tmp_path / "required.py"
    file.write_text(REQUIRED)
    config = config_lib.load(str(file), ["total_steps=5", "model.name=densenet"])
    assert (config.total_steps, config.model.name) == (5, "densenet")
    config = config_lib.load(str(file), ["total_epochs=5", "model.name=densenet"])
    assert (config.total_steps, config.total_epochs) == (None, 5.0)
    with pytest.raises(UserError) as error:
        config_lib.load(str(file), ["model.name=densenet"])
    assert str(error.value) == (
        "the config requires a value of config.total_steps: give --config.total_steps=VALUE"
    )
    with pytest.raises(UserError, match=r"of config\.model\.name, config\.total_steps"):
        config_lib.load(str(file))


@pytest.mark.parametrize(
    "body",
    [
        "return {'lr': 0.5, 'model': {'name': 'densenet40_k12'}}",
        "return ml_collections.FrozenConfigDict({'lr': 0.5})",
        "return config_dict.create(lr=0.5).lock()",
        "return config_dict.create(lr=0.5, init_from=config_dict.placeholder(str))",
        "f = config_dict.FieldReference(0.25); return config_dict.create(lr=f * 2)",
        "f = config_dict.FieldReference(3); return config_dict.create(lr=(f - 1).to_float() / 4)",
        "c = config_dict.create(lr=0.1); c.update_from_flattened_dict({'lr': 0.5}); return c",
        "f = config_dict.FieldReference(0.5); return config_dict.create(lr=f, data={'std': (f,)})",
    ],
)
def test_forms_of_configs_that_ml_collections_documents(body, tmp_path):
    file = tmp_path / "form.py"
    head = "import ml_collections\nfrom ml_collections import config_dict\n\n\n"
    file.write_text(f"{head}def get_config():\n    {body}\n")
    assert config_lib.load(str(file), ["seed=3"]).lr == 0.5
    assert config_lib.load(str(file), ["lr=0.75"]).lr == 0.75


def test_numbers_of_numpy_and_paths_are_plain_values(tmp_path):
    """As code in a config file computes them; JAX's arrays have the same methods."""
    given = {
        "lr": np.float32(0.125),
        "batch_size": np.int64(32),
        "schedule_args": {"warmup_steps": np.int64(3)},
        "data": {"mean": np.array([0.5, 0.25, 0.5]), "data_dir": tmp_path},
    }
    config = config_lib.resolve(given)
    assert (config.lr, config.batch_size) == (0.125, 32)
    assert type(config.lr) is float
    assert type(config.batch_size) is int
    assert config.data.mean == (0.5, 0.25, 0.5)
    assert config.data.data_dir == str(tmp_path)
    assert config_lib.to_json(config)["schedule_args"] == {"warmup_steps": 3}
    with pytest.raises(UserError, match=r"config.lr must be of type float, got None"):
        config_lib.resolve({"lr": None})
    with pytest.raises(UserError, match=r"config.lr must be of type float, got \[0.1\]"):
        config_lib.resolve({"lr": np.array([0.1])})


def test_a_reference_that_cannot_be_followed_is_told_in_one_line(tmp_path):
    file = tmp_path / "references.py"
    file.write_text(
        "import ml_collections\n\n\ndef get_config():\n    c = ml_collections.ConfigDict()\n"
        "    c.seed = 2\n    c.lr = 1 / c.get_ref('seed')\n    return c\n"
    )
    assert config_lib.load(str(file), ["seed=4"]).lr == 0.25
    with pytest.raises(UserError, match=r"config\.lr can't follow the field it refers to: ZeroDiv"):
        config_lib.load(str(file), ["seed=0"])


def test_the_text_after_a_colon_is_the_argument_of_get_config(tmp_path):
    file = tmp_path / "by_text.py"
    file.write_text("def get_config(text='0.25'):\n    return {'lr': float(text)}\n")
    assert config_lib.load(f"{file}:0.5").lr == 0.5
    assert config_lib.load(str(file)).lr == 0.25


def test_a_config_that_changes_the_default(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from aggnets_jax.config import default_config\n\n\ndef get_config():\n"
        "    config = default_config()\n    config.lr = 0.3\n    return config\n"
    )
    assert config_lib.load(str(file), ["seed=4"]).lr == 0.3


def test_differences_leave_out_what_changes_no_result():
    old = config_lib.to_json(config_lib.default_config())
    new = config_lib.to_json(
        config_lib.resolve(
            {"lr": 0.2, "keep_checkpoints": 5, "data": {"data_dir": "/data", "flip": False}}
        )
    )
    assert config_lib.differences(old, new) == ["data.flip: True -> False", "lr: 0.1 -> 0.2"]


def test_either_length_unsets_the_other():
    assert config_lib.resolve({"total_epochs": 3}).total_steps is None
    assert config_lib.resolve({"total_steps": 3}).total_epochs is None
    config = config_lib.default_config()
    config.total_epochs = 300.0
    config = config_lib.resolve(config)
    assert (config.total_steps, config.total_epochs) == (None, 300.0)
    assert config_lib.resolve(config_lib.to_json(config)) == config
    assert config_lib.total_steps(config, num_train=50_000) == 300 * 50_000 // 64


def test_epochs_of_no_step_are_refused():
    config = config_lib.resolve({"total_epochs": 2, "batch_size": 64})
    assert config_lib.total_steps(config, num_train=17) == 1
    with pytest.raises(UserError) as error:
        config_lib.total_steps(config, num_train=15)
    assert str(error.value) == (
        "config.total_epochs 2 is less than half a step: 15 images are 0.234 batches of 64; set"
        " config.total_steps, a smaller config.batch_size, or at least 4.27 epochs"
    )


def test_epochs_of_too_many_steps_are_refused():
    config = config_lib.resolve({"total_epochs": 1e9, "batch_size": 64})
    with pytest.raises(UserError, match=r"1e\+09 are 1\.56e\+10 steps; allowed: below 2\*\*31"):
        config_lib.total_steps(config, num_train=1000)


def test_two_lengths_are_refused():
    for lengths in (["total_steps=5", "total_epochs=2"], ["total_epochs=2", "total_steps=5"]):
        with pytest.raises(UserError, match="set one of"):
            config_lib.load("configs/digits.py", lengths)
    with pytest.raises(UserError, match="set one of"):
        config_lib.resolve({"total_epochs": 3, "total_steps": 64_000})
    with pytest.raises(UserError, match="set one of"):
        config_lib.resolve({"total_steps": None})


SWEEP = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict({"lr": 0.2})


def sweep():
    for k in (12, 24):
        yield f"k{k}", {"model.name": f"densenet40_k{k}", "paper.error": 5.0}
"""


def test_a_row_of_a_sweep_differs_from_its_file(tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text(SWEEP)
    config = config_lib.load(f"{file}:k24", ["lr=0.3"])
    assert (config.model.name, config.paper.error, config.lr) == ("densenet40_k24", 5.0, 0.3)
    assert config.file == f"{file}:k24"
    assert list(config_lib.rows(file)) == ["k12", "k24"]


def test_rows_that_are_missing_or_not_there(tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text(SWEEP)
    with pytest.raises(UserError, match=r"has several rows; give .*:ROW, ROW being k12, k24"):
        config_lib.load(str(file))
    with pytest.raises(UserError, match=r"unknown row of .* 'k25'; nearest: k24"):
        config_lib.load(f"{file}:k25")
    with pytest.raises(UserError, match="has no rows"):
        config_lib.load(f"{runs.ROOT}/configs/digits.py:k24")


def test_recipes_by_name():
    assert config_lib.recipe("digits").data.name == "aggnets_digits"
    with pytest.raises(UserError, match="unknown recipe 'digit'; nearest: digits"):
        config_lib.recipe("digit")


def test_arguments_of_a_file_are_not_those_of_another_network(tmp_path):
    file = tmp_path / "two_stages.py"
    file.write_text(
        "import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict("
        '{"model": {"name": "sparsenet_bc", "args": {"stage_depths": (8, 4)}}})\n'
    )
    with pytest.raises(UserError, match=r"\(stage_depths\) are for sparsenet_bc; .*args=\{\}"):
        config_lib.load(str(file), ["model.name=densenet40_k12"])
    for overrides in (["model.topology=dense"], ["model.name=sparsenet_bc"]):
        assert config_lib.load(str(file), overrides).model.args.stage_depths == (8, 4)
    config = config_lib.load(str(file), ["model.name=densenet40_k12", "model.args={}"])
    assert config_lib.model_arguments(config).keys().isdisjoint({"stage_depths"})
