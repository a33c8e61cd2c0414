"""Patterns, aggregations, units, families and data sets of users, by a config or a plugin."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax import create_model, list_families
from aggnets_jax.config_fields import plugins
from aggnets_jax.connectivity import aggregation, patterns, unit
from aggnets_jax.errors import UserError
from aggnets_jax.layers.regularisation import current_strength
from aggnets_jax.main import main
from aggnets_jax.models import registry
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import set_up
from tests import runs


def code_of(heading, page="plugins.md"):
    """The first piece of Python code below a heading of docs/plugins.md or another page."""
    text = (runs.ROOT / "docs" / page).read_text().partition(f"## {heading}\n")[2]
    return text.partition("```python\n")[2].partition("```")[0]


PATTERN = code_of("A pattern of your own", "topologies.md").partition("def get_config")[0]


@pytest.fixture
def registries(monkeypatch):
    """Forget at the end what a test registers."""
    changed = (patterns.PATTERNS, aggregation.AGGREGATIONS, unit.UNITS, registry._FAMILIES)
    before = [dict(names) for names in changed]
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for names, kept in zip(changed, before, strict=True):
        names.clear()
        names.update(kept)
    aggregation._OWN.clear()


def test_the_page_of_topologies(registries):
    """Its config and its networks from Python are made as they are written."""
    text = (
        (runs.ROOT / "docs" / "topologies.md").read_text().partition("## A pattern of your own")[2]
    )
    config, python = (part.partition("```")[0] for part in text.split("```python\n")[1:])
    names = {"__name__": "config_mine"}
    exec(config, names)
    model = registry.create_configured_model(config_lib.resolve(names["get_config"]()), 10)
    assert {t.name for t in model.topologies} == {"skip_two"}
    assert model.topologies[0].sources_of(5) == (1, 4)
    exec(python, names)


def import_code(folder, monkeypatch, name, code):
    (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    plugins.import_plugins([name])
    sys.modules.pop(name)


def test_a_run_stores_the_links_of_its_pattern(registries, tmp_path):
    model = {"name": "sparsenet10_k4", "topology": ("skip_two", "dense", "skip_two")}
    file = runs.write_config(tmp_path / "c.py", {"model": {**model, "topology_args": {}}})
    file.write_text(PATTERN + file.read_text())
    config = config_lib.load(str(file))
    network = set_up(config, get_task(config), info=runs.DATASET).network
    stored = config_lib.to_json(config)
    (row,) = stored["model"]["patterns"]["skip_two"]
    assert (row["depth"], row["arguments"]) == (2, {})
    del patterns.PATTERNS["skip_two"]
    again = registry.create_configured_model(config_lib.resolve(json.loads(json.dumps(stored))), 2)
    assert again.topologies == network.topologies
    # Another depth needs the code.
    stored["model"]["args"] = {"stage_depths": (3, 3, 3)}
    with pytest.raises(UserError, match="'skip_two' is known by its links alone, for 2 layers"):
        registry.create_configured_model(config_lib.resolve(stored), 2)


@pytest.mark.slow
def test_a_pattern_in_a_config_file_and_a_workdir_that_needs_no_code(
    registries, data_dir, tmp_path, capsys
):
    """Training stores the links; all that reads the workdir does without the pattern."""
    config = runs.tiny_config(data_dir, total_steps=2, eval_every_steps=2)
    config["model"] |= {"topology": "skip_two", "topology_args": {"skip": 1}}
    file = runs.write_config(tmp_path / "c.py", config)
    file.write_text(PATTERN + file.read_text())
    workdir = tmp_path / "run"
    assert main(["train", f"--config={file}", f"--workdir={workdir}"]) == 0
    rows = json.loads((workdir / "config.json").read_text())["model"]["patterns"]
    assert {row["depth"] for row in rows["skip_two"]} == {2}
    del patterns.PATTERNS["skip_two"]
    for words in (
        *(["eval"], ["report"], ["ablate", "--sweep=links"], ["analyse", "topology"]),
        ["predict", f"--images={_image(tmp_path)}"],
    ):
        assert main([*words, f"--workdir={workdir}"]) == 0, words
    assert main(["results", str(workdir), f"--output={tmp_path / 'table'}"]) == 0
    assert "skip_two" in (tmp_path / "table.csv").read_text()
    # The same run goes on; a pattern that has changed is another config.
    assert main(["train", f"--config={file}", f"--workdir={workdir}"]) == 0
    file.write_text(file.read_text().replace("layer - 1 - skip", "layer - 2 - skip"))
    assert main(["train", f"--config={file}", f"--workdir={workdir}"]) == 2
    assert "model.patterns" in capsys.readouterr().err


def _image(folder):
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "image.png")
    return folder / "image.png"


def test_a_config_takes_topologies_functions_and_links(registries):
    code = {}
    exec(PATTERN, code)
    links = ((1, 0), (2, 1), (2, 0), (3, 2))
    given = {"model": {"name": "sparsenet10_k4", "topology": links}}
    config = config_lib.resolve(given)
    model = registry.create_configured_model(config, 2)
    assert model.topologies[0].sources == ((0,), (1, 0), (2,))
    again = config_lib.resolve(config_lib.to_json(config))
    assert registry.create_configured_model(again, 2).topologies == model.topologies
    given["model"]["topology"] = model.topologies[0]
    config = config_lib.resolve(given)
    sources = registry.create_configured_model(config, 2).topologies[0].sources
    assert sources == model.topologies[0].sources
    given["model"]["topology"] = code["skip_two"]
    assert config_lib.resolve(given).model.topology == "skip_two"
    assert config_lib.to_json(config_lib.resolve(given))


def test_an_aggregation_a_unit_and_a_family(registries, tmp_path, monkeypatch):
    """The code of docs/plugins.md, each used as the page says."""
    code = "\n".join(map(code_of, ("An aggregation", "A unit", "A family")))
    import_code(tmp_path, monkeypatch, "my_networks", code)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    assert "my_net" in list_families()
    small = {"stage_depths": (3, 2), "growth_rate": 4}
    for model in (
        create_model("densenet", 3, aggregation="maximum", **small),
        create_model("densenet", 3, unit="separable", **small),
        create_model("my_net12", 3, width=4),
        create_model("my_net", 3, depth=3, topology="dense"),
    ):
        (logits, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        assert logits.shape == (2, 3) and {"stage1", "pre_logits", "logits"} <= {*endpoints}
    read = {1: jnp.array([1.0, 5.0]), 3: jnp.array([2.0, 4.0])}
    largest = aggregation.make_aggregation("maximum")
    assert largest(read, (3, 1), 4).tolist() == [2, 5]
    assert largest(read, (3, 1), 4, jnp.array([1.0, 0.0])).tolist() == [2, 4]
    with pytest.raises(UserError, match="unknown unit 'seperable'; nearest: separable"):
        create_model("densenet", 3, unit="seperable", **small)
    with pytest.raises(UserError, match="there is an aggregation 'sum' already"):
        aggregation.register_aggregation("sum", aggregation.Sum)


def test_plugins_of_configs_and_of_the_environment(registries, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_patterns.py").write_text(PATTERN)
    model = {"name": "sparsenet10_k4", "topology": "skip_two"}
    file = runs.write_config(tmp_path / "c.py", {"plugins": ("my_patterns",), "model": model})
    monkeypatch.delitem(sys.modules, "my_patterns", raising=False)
    config = config_lib.load(str(file))  # beside the config
    model = registry.create_configured_model(config, 2)
    assert {topology.name for topology in model.topologies} == {"skip_two"}
    with pytest.raises(UserError, match=r"plugin 'my_patern' can't be imported: ModuleNotFound"):
        config_lib.load(str(file), ["plugins=('my_patern',)"])
    with pytest.raises(UserError, match=r"plugin './x.py' must be the name of a module"):
        config_lib.load(str(file), ["plugins=('./x.py',)"])
    # A workdir whose plugin is missing says so where it matters.
    config = config_lib.resolve({"plugins": ("gone",), "model": {"name": "my_net12"}})
    with pytest.raises(UserError, match=r"unknown model 'my_net12'.*plugin 'gone' can't be"):
        registry.create_configured_model(config, 2)
    # Code that came with a workdir does not run, neither by its name nor by the path of a file.
    (tmp_path / "beside.py").write_text("raise RuntimeError('run')")
    monkeypatch.chdir(tmp_path)
    for search in (sys.path, ["", *sys.path], [str(tmp_path), *sys.path]):
        monkeypatch.setattr(sys, "path", search)
        (problem,) = plugins.import_installed(["beside"])
        assert "ModuleNotFoundError" in problem and "set AGGNETS_PLUGINS" in problem
    monkeypatch.setenv(plugins.VARIABLE, "beside")
    assert main(["models", "my_net"]) == 2
    assert "plugin 'beside' can't be imported: RuntimeError: run" in capsys.readouterr().err
    monkeypatch.setenv(plugins.VARIABLE, "gone")
    assert main(["models", "my_net"]) == 2
    assert "plugin 'gone' can't be imported" in capsys.readouterr().err


@pytest.mark.slow
def test_a_data_set(tmp_path, monkeypatch):
    """The builder of docs/plugins.md is prepared and described."""
    (tmp_path / "my_data.py").write_text(code_of("A data set"))
    monkeypatch.setenv(plugins.VARIABLE, "my_data")
    monkeypatch.setenv("PYTHONPATH", str(runs.ROOT))
    command = [sys.executable, "-m", "aggnets_jax", "prepare-data", "--name=my_data"]
    done = subprocess.run(
        [*command, f"--data_dir={tmp_path}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "my_data 1.0.0 is prepared" in done.stdout and "train: 8 examples" in done.stdout


def test_a_unit_with_variables_of_its_own_is_not_computed_in_loops(registries):
    """Loops pass on parameters and statistics alone; a strength would be 0 in them."""

    class Scaled(nn.Module):
        features: int
        norm: object
        conv: object

        @nn.compact
        def __call__(self, x):
            return self.conv(self.features, 1, name="conv")(x) * (1 + current_strength(self))

    unit.register_unit("scaled", Scaled)
    arguments = {"unit": "scaled", "topology": "dense", "aggregation": "sum", "stage_depths": (5,)}
    apart, in_loops = (
        functools.partial(
            jax.eval_shape,
            create_model("sparsenet40_k4", 10, scan=scan, **arguments).init,
            jax.random.key(0),
            jnp.zeros((1, 8, 8, 3)),
        )
        for scan in (False, True)
    )
    assert len(apart()["strength"]["stage1"]) == 5
    with pytest.raises(UserError, match=r"the unit's variables \['strength'\]; set scan=False"):
        in_loops()
