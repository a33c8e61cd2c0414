"""The list of experiments: what they are, what they cost, what came out."""

import csv
import io

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data, model_info
from aggnets_jax.config_fields.known_data import KNOWN
from aggnets_jax.data.catalog import OBJECT_SETS, find_builder
from aggnets_jax.data.dataset_info import feature_keys
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.reports import experiments
from tests import runs
from tests.marks import mostly_slow
from tests.models.variables import starting_from_zeros


@pytest.fixture(autouse=True)
def counts_alone():
    """No network of these is initialised."""
    with starting_from_zeros():
        yield


SPARSENET = "configs/sparsenet/table2.py:sparsenet_bc100_k24_c100"


def load(name, *overrides):
    return config_lib.load(str(runs.ROOT / name), overrides)


@pytest.mark.parametrize("name", sorted({*KNOWN} - {*OBJECT_SETS}))
def test_facts_of_data_sets_are_those_of_tfds(name, data_dir):
    facts = KNOWN[name]
    features = find_builder(name, data_dir).info.features
    image, label = feature_keys(find_builder(name, data_dir))
    assert features[label].num_classes == facts.num_classes
    assert features[image].shape in ((None, None, 3), facts.image_shape)


@pytest.mark.parametrize("split", KNOWN["aggnets_digits"].examples)
def test_sizes_of_splits_are_those_of_the_data(split, data_dir):
    config = config_lib.resolve(
        {"data": {"name": "aggnets_digits", "data_dir": data_dir, "train_split": split}}
    )
    assert experiments.num_train(config) == data.describe(config.data).num_train


def test_the_sizes_that_come_with_the_package_are_those_of_all_experiments():
    networks = {experiments.network_of(each.config) for each in experiments.list_experiments()}
    assert {*experiments.kept_sizes()} == networks, "aggnets experiments --format=sizes makes them"


@pytest.mark.slow
def test_the_sizes_that_come_with_the_package_are_what_counting_gives():
    for network, size in experiments.kept_sizes().items():
        assert experiments.counted(network) == size, network


def test_cost_is_three_times_the_network_for_each_image():
    macs = model_info("sparsenet_bc100_k24", num_classes=100).macs
    # 300 epochs of 50,000 images are 234,375 batches of 64.
    assert experiments.training_cost(load(SPARSENET)) == 3 * macs * 234_375 * 64
    two_seeds = load(SPARSENET, "total_steps=10", "num_seeds=2")
    assert experiments.training_cost(two_seeds) == 3 * macs * 10 * 64 * 2


@mostly_slow(
    ("name", "overrides"),
    [
        ("configs/sparsenet/table2.py:densenet40_k12_c10", []),
        ("configs/sparsenet/table2.py:sparsenet40_k24_c100", []),
        ("configs/sparsenet/table3.py:preact_resnet56", []),
        ("configs/sparsenet/table4.py:sparsenet121_k32", []),
        ("configs/sparsenet/table4.py:sparsenet121_k32", ["data.image_size=64"]),
        ("configs/sparsenet/table2.py:densenet40_k12_c10", ["model.args.stem_features=8"]),
    ],
    quick=(0, 2, 5),
)
def test_the_page_of_networks_says_what_counting_gives(name, overrides):
    config = load(name, *overrides)
    info = model_info(
        config.model.name,
        num_classes={"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}[config.data.name],
        input_shape=(config.data.image_size or 32, config.data.image_size or 32, 3),
        **config.model.args,
    )
    assert experiments.size(config) == (info.params, info.macs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.name=mnist", "unknown size of data set 'mnist'"),
        ("data.train_split=train[:90%]", "unknown size of the split of cifar100"),
        ("model.name=densnet40_k12", "nearest: densenet40_k12"),
    ],
)
def test_what_is_not_known_without_the_data_is_an_error(override, message):
    with pytest.raises(UserError) as error:
        experiments.training_cost(load(SPARSENET, override))
    assert message in str(error.value)


def test_every_config_with_a_source_is_listed_once():
    listed = [experiment.name for experiment in experiments.list_experiments()]
    assert len(set(listed)) == len(listed)
    assert SPARSENET in listed
    assert not any("recipes" in name or "digits" in name for name in listed)
    micro_dense = list(experiments.list_experiments("micro_dense"))
    assert {e.name for e in micro_dense} == {n for n in listed if "/micro_dense/" in n}
    assert all(e.config.paper.source.startswith("Micro-Dense") for e in micro_dense)
    with pytest.raises(UserError, match="nearest: sparsenet"):
        list(experiments.list_experiments("sparsnet"))


def write_results(folder, rows, columns=("config", "overrides", "seed", "error")):
    folder.mkdir(exist_ok=True)
    with (folder / f"runs{len(list(folder.iterdir()))}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_errors_of_unchanged_configs_count_once_for_each_seed(tmp_path):
    write_results(
        tmp_path / "results",
        [(SPARSENET, "", 0, 22.0), (SPARSENET, "", 1, 23.0), (SPARSENET, "--config.lr=1", 2, 90.0)],
    )
    write_results(tmp_path / "results", [(SPARSENET, "", 1, 23.0), ("mine.py", "", 0, 5.0)])
    write_results(tmp_path / "results", [(SPARSENET, 1.5)], columns=("config", "ratio"))
    errors = experiments.measured_errors(tmp_path / "results")
    assert errors == {SPARSENET: [22.0, 23.0], "mine.py": [5.0]}
    assert experiments.measured_errors(tmp_path) == {}


def test_a_damaged_table_is_named(tmp_path, capsys):
    write_results(tmp_path / "results", [(SPARSENET, "", 0, "much")])
    assert main(["experiments", f"--results={tmp_path / 'results'}"]) == 2
    assert "runs0.csv can't be read: could not convert" in capsys.readouterr().err


def test_all_formats_say_the_same(tmp_path, capsys, monkeypatch):
    names = [SPARSENET, "configs/sparsenet/table4.py:densenet121"]
    few = [experiments.Experiment(name, load(name)) for name in names]
    monkeypatch.setattr(experiments, "list_experiments", lambda family: few)
    write_results(tmp_path, [(SPARSENET, "", 0, 22.0), (SPARSENET, "", 1, 23.0)])
    text = {}
    for form in ("table", "csv", "markdown"):
        assert main(["experiments", f"--results={tmp_path}", f"--format={form}"]) == 0
        text[form] = capsys.readouterr().out
    run, not_run = csv.DictReader(io.StringIO(text["csv"]))
    assert [run["experiment"], not_run["experiment"]] == names
    assert [run[k] for k in ("printed_error", "our_error", "seeds")] == ["22.12", "22.5", "2"]
    assert [not_run[k] for k in ("our_error", "seeds")] == [experiments.NOT_RUN, "0"]
    assert float(run["epochs"]) == 300
    assert int(run["training_macs"]) == experiments.training_cost(few[0].config)
    for form in ("table", "markdown"):
        ((line,), (other,)) = (
            [line for line in text[form].splitlines() if name in line] for name in names
        )
        for cell in (names[0], "22.12", "22.50 (2 seeds)", "1.46M", "29 petaMACs"):
            assert cell in line
        assert experiments.NOT_RUN in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=html"], "unknown format 'html'"),
        (["--results=nowhere"], "results nowhere is no folder"),
        (["--famly=dsnet"], "unknown flag '--famly'; nearest: --family"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["experiments", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_units():
    numbers = [0, 950, 2.44e10, 9.99e14, 1.28e15, 4.2e17, 1.93e18, 3.1e21]
    assert [experiments.in_units(int(n)) for n in numbers] == [
        "0 MACs",
        "950 MACs",
        "24 gigaMACs",
        "1 petaMACs",
        "1.3 petaMACs",
        "420 petaMACs",
        "1.9 exaMACs",
        "3100 exaMACs",
    ]


def test_the_config_in_the_documentation_is_one(tmp_path):
    page = (runs.ROOT / "docs" / "experiments.md").read_text()
    file = tmp_path / "table3.py"
    file.write_text(page.split("```python\n")[1].split("```")[0])
    rows = config_lib.rows(file)
    assert len(rows) == 2
    for row in rows:
        ours = config_lib.to_json(config_lib.load(f"{file}:{row}"))
        theirs = config_lib.to_json(load(f"configs/sparsenet/table3.py:{row}"))
        assert config_lib.differences(ours, theirs) == []
        assert ours["paper"]["error"] == theirs["paper"]["error"]


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_configs_of_no_paper_are_no_experiments(form, capsys):
    assert main(["experiments", "--family=detection", f"--format={form}"]) == 2
    assert "configs/detection has no experiments of a paper" in capsys.readouterr().err
