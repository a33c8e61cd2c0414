"""`aggnets ablate`: its tables and pictures, the networks that it exports, and what it refuses."""

import contextlib
import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.main import main
from aggnets_jax.models import create_configured_model
from tests import runs
from tests.models.variables import random_variables

NETWORK = {"name": "densenet", "args": {"stage_depths": (2, 2), "growth_rate": 4}}
LINKS = 12
NUMBERS = ["accuracy", "delta", "ci_low", "ci_high", "loss"]
KEYS = {
    "links": ["stage", "layer", "source"],
    "sources": ["stage", "source", "links"],
    "layers": ["stage", "layer", "links"],
    "distances": ["stage", "distance", "links"],
    "random": ["links", "draw", "seed", "cut"],
}


def write_run(workdir, data_dir, **changes):
    config = config_lib.resolve(runs.tiny_config(data_dir, **{"model": NETWORK, **changes}))
    info = data.describe(config.data)
    model = create_configured_model(config, info.num_classes)
    variables = random_variables(model, 8, np.float32, channels=1)
    write_new_run(config, info, variables, workdir)
    return workdir


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
    """Return the workdir of a run that has not made a step."""
    return write_run(tmp_path_factory.mktemp("ablate") / "run", data_dir)


def read(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


SWEEP = ["--draws=2", "--draw_seed=4", "--at_once=7"]


@pytest.fixture(scope="module")
def ablated(workdir):
    """Ablate and export without the two least links; return the folder and the printed text."""
    arguments = ["ablate", f"--workdir={workdir}", *SWEEP]
    arguments += ["--export_least=2", f"--export={workdir.parent / 'least'}"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(arguments) == 0
    return workdir / "ablation", out.getvalue()


def test_each_sweep_has_its_table(ablated):
    folder, out = ablated
    for name, keys in KEYS.items():
        rows = read(folder / f"{name}.csv")
        assert list(rows[0]) == [*keys, *NUMBERS]
        for row in rows:
            numbers = [float(row[name]) for name in NUMBERS]
            accuracy, delta, low, high, loss = numbers
            assert 0 <= accuracy <= 1 and low <= delta <= high and loss > 0
    assert len(read(folder / "links.csv")) == LINKS
    assert len(read(folder / "random.csv")) == 2 * 4 + 1
    assert {row["seed"] for row in read(folder / "random.csv")} == {"4"}
    for picture in ("links.png", "links_loss.png", "distances.png", "random.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
        assert str(folder / picture) in out
    assert "single links that matter most: 10 of 12" in out


def test_the_record_says_what_was_done(ablated, workdir):
    folder, _ = ablated
    record = json.loads((folder / "ablation.json").read_text())
    assert len(record["network"].pop("fingerprint")) == 64
    assert record["network"] == {
        "name": "densenet",
        "step": 0,
        "seed": 0,
        "data": "aggnets_digits",
        "data_dir": None,
        "split": "test",
        "reestimate_batch_statistics": 0,
    }
    assert (record["examples"], record["checkpoint"]) == (360, "latest")
    assert record["options"]["draw_seed"] == 4
    rows, sweep = read(folder / "links.csv"), record["sweeps"]["links"]
    for row, entry in zip(rows, sweep, strict=True):
        assert [row[key] for key in KEYS["links"]] == [str(entry[key]) for key in KEYS["links"]]
        assert float(row["accuracy"]) == pytest.approx(entry["accuracy"], rel=1e-8)
        change = entry["accuracy"] - record["baseline"]["accuracy"]
        assert entry["delta"] == pytest.approx(change, abs=1e-12)
        assert 360 * change == pytest.approx(entry["gained"] - entry["lost"])
        assert entry["loss_ci_low"] <= entry["loss_delta"] <= entry["loss_ci_high"]
        loss = record["baseline"]["loss"] + entry["loss_delta"]
        assert entry["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
def test_four_devices_come_to_what_one_does(ablated, workdir, tmp_path):
    arguments = ["ablate", f"--workdir={workdir}", *SWEEP, f"--output={tmp_path}"]
    code, _, err = runs.finish(runs.start(*arguments, devices=4))
    assert (code, err) == (0, "")
    for name, keys in KEYS.items():
        pairs = zip(read(tmp_path / f"{name}.csv"), read(ablated[0] / f"{name}.csv"), strict=True)
        for four, one in pairs:
            assert [four[key] for key in keys] == [one[key] for key in keys]
            assert float(four["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
            assert abs(float(four["accuracy"]) - float(one["accuracy"])) < 1.5 / 360


def test_the_least_links_are_exported_that_can_be_cut(ablated, workdir):
    folder, out = ablated
    cut = [tuple(row.values()) for row in read(workdir.parent / "least" / "cut.csv")]
    growth = {
        tuple(str(entry[key]) for key in KEYS["links"]): entry["loss_delta"]
        for entry in json.loads((folder / "ablation.json").read_text())["sweeps"]["links"]
    }
    assert len(cut) == 2 and set(cut) < set(growth)
    # What reads the first stage's output is as wide as that; layers read one output at least.
    free = [k for k in growth if k[1] != "1" and k[:2] != ("stage1", "3")]
    assert cut[0] == min(free, key=growth.get)
    assert f"without 2 links: {workdir.parent / 'least' / 'config.py'}" in out
    assert "checked against the network with cut links" in out


@pytest.fixture(scope="module")
def exported(ablated, workdir):
    """Export a network without listed links; return its folder and the row of their table."""
    folder = workdir.parent / "exported"
    arguments = ["ablate", f"--workdir={workdir}", "--cut=stage1:2-0,stage2:3-1"]
    assert main([*arguments, f"--export={folder}"]) == 0
    (row,) = read(ablated[0] / "list.csv")
    return folder, row


def test_listed_links_have_a_table_and_the_others_stay(ablated, exported):
    _, row = exported
    assert list(row) == ["set", "links", *NUMBERS]
    assert (row["set"], row["links"]) == ("stage1:2-0,stage2:3-1", "2")
    record = json.loads((ablated[0] / "ablation.json").read_text())
    kinds = {"links", "sources", "layers", "distance", "random", "list"}
    assert record["sweeps"].keys() == kinds
    assert all((ablated[0] / f"{name}.csv").exists() for name in KEYS)


def test_exported_a_network_has_the_accuracy_that_it_had_masked(exported, capsys):
    folder, row = exported
    assert main(["eval", f"--workdir={folder}"]) == 0
    evaluated = json.loads((folder / "evaluation.json").read_text())
    assert evaluated["accuracy"] == pytest.approx(float(row["accuracy"]), abs=1.5 / 360)
    assert evaluated["loss"] == pytest.approx(float(row["loss"]), rel=1e-5)


def test_the_config_of_an_exported_network_starts_from_its_weights(exported, tmp_path):
    folder, _ = exported
    lines = (folder / "config.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import", "from"))]
    assert imports == ["from pathlib import Path", "import ml_collections"]
    config = config_lib.load(str(folder / "config.py"), ["lr=0.3"])
    assert (config.init_from, config.lr) == (str(folder), 0.3)
    fields = json.loads((folder / "config.json").read_text())
    assert config_lib.changes(fields, config_lib.to_json(config)).keys() == {"init_from", "lr"}
    assert config_lib.load(str(folder / "config.py"), ["init_from=None"]).init_from is None

    info = data.describe(config.data)
    whole, smaller = (
        random_variables(create_configured_model(c, 10), 8, np.float32, channels=1)
        for c in (config_lib.resolve({"model": NETWORK}), config)
    )
    started = initial_variables(config, info, smaller, tmp_path / "new")
    # Layer 2 reads the 8 channels of the input, which are gone, then the 4 of layer 1.
    found, kernel = (
        np.asarray(v["params"]["stage1"]["layer2"]["conv1"]["kernel"]) for v in (started, whole)
    )
    np.testing.assert_array_equal(found, kernel[:, :, 8:])


def test_a_network_whose_weights_do_not_fit_is_a_config(workdir, tmp_path, capsys):
    """The transition after the first stage would be narrower."""
    exported = tmp_path / "exported"
    arguments = ["ablate", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--cut=stage1:3-0", f"--export={exported}"]) == 0
    out = capsys.readouterr().out
    assert "trains from scratch" in out and "transition1" in out
    assert sorted(file.name for file in exported.iterdir()) == ["config.py", "cut.csv"]
    config = config_lib.load(str(exported / "config.py"))
    assert config.init_from is None
    assert create_configured_model(config, 10).topologies[0].sources == ((0,), (0, 1), (1, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep=link"], "unknown sweep 'link'; nearest: links"),
        (["--sweep=links,"], "unknown sweep ''"),
        (["--cut="], "--cut is empty"),
        (["--cut=stage9:1-0"], "unknown stage 'stage9'; nearest: stage"),
        (["--cut=stage1:2-2"], "stage1: layer 2 does not read 2; allowed: 0, 1"),
        (["--cut=cut.csv"], "cut.csv can't be read"),
        (["--checkpoint=best"], "no checkpoint in"),
        (["--seed=5"], "unknown seed '5'; allowed: 0"),
        (["--data_dir=/nowhere"], "/nowhere"),
        (["--draws=0"], "draws must be at least 1"),
        (["--at_once=0"], "at_once must be at least 1"),
        (["--reestimate_batch_statistics=-1"], "--reestimate_batch_statistics must be at least 0"),
        (["--export=E"], "--export needs the links to cut"),
        (["--export_least=3"], "--export_least needs --export=FOLDER"),
        (["--export=E", "--export_least=0"], "must be at least 1 link"),
        (["--export=E", "--export_least=3", "--sweep=layers"], "needs the sweep of single links"),
        (["--export=E", "--cut=stage1:2-0", "--cut=stage1:2-1"], "one set of links can be"),
        (["--export=E", "--cut=stage1:1-0"], "there is no network: layer 1 of stage1 would read"),
        (["--export=tests", "--cut=stage1:2-0"], "tests exists already"),
        (["--output=README.md"], "README.md can't be written"),
        (["--images=README.md"], "--images is for aggnets predict"),
        (["--config=configs/digits.py"], "takes the config of the workdir"),
    ],
)
def test_mistakes_are_told_in_one_line(workdir, arguments, message, capsys):
    before = sorted(workdir.rglob("*.csv"))
    assert main(["ablate", f"--workdir={workdir}", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert sorted(workdir.rglob("*.csv")) == before


def test_flags_of_this_mode_are_for_no_other(workdir, capsys):
    for flag in ("sweep=links", "cut=stage1:1-0", "draws=1", "export=E"):
        assert main(["eval", f"--workdir={workdir}", f"--{flag}"]) == 2
        assert "is for aggnets ablate" in capsys.readouterr().err


def test_tables_of_another_network_are_not_mixed(ablated, workdir, data_dir, tmp_path, capsys):
    arguments = ["ablate", f"--workdir={workdir}", "--cut=stage1:2-0"]
    assert main([*arguments, "--reestimate_batch_statistics=1"]) == 2
    assert "tables of another network, or of other batch statistics" in capsys.readouterr().err
    others = write_run(tmp_path / "other", data_dir, seed=0, model={**NETWORK, "topology": "plain"})
    other = ["ablate", f"--workdir={others}", "--cut=stage1:2-1", f"--output={ablated[0]}"]
    assert main(other) == 2
    assert "tables of another network" in capsys.readouterr().err
    record = ablated[0] / "ablation.json"
    right = record.read_text()
    for wrong in ("{", '{"sweeps": {"links": 3}}'):
        record.write_text(wrong)
        assert main(arguments) == 2
        assert "ablation.json is damaged" in capsys.readouterr().err
    record.write_text(right)


def test_weights_from_a_file_are_cut_on_the_data_set_of_their_config(data_dir, tmp_path, capsys):
    config = config_lib.resolve(runs.tiny_config(data_dir, model=NETWORK))
    info = data.describe(config.data)
    model = create_configured_model(config, info.num_classes)
    variables = random_variables(model, 8, np.float32, channels=1)
    info = dataclasses.replace(info, num_train=0, num_eval=0, eval_split="")
    write_new_run(config, info, variables, tmp_path / "run")
    assert main(["ablate", f"--workdir={tmp_path / 'run'}", "--cut=stage1:2-0"]) == 0
    assert "of 360 images" in capsys.readouterr().out
