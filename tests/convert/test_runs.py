"""`aggnets convert`: a workdir's weights to a file, and a file's weights to a workdir."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.convert import to_torch, write_state_dict
from aggnets_jax.main import main
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime.compilation import fast_compile_options
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state
from tests import runs
from tests.tasks.detection_runs import tiny_detection

# Without the arguments that the config has for its own.
ANOTHER = "--config.model.args={} --config.model.name"


@pytest.fixture(scope="module")
def trained(finished_run, data_dir, tmp_path_factory):
    """(config file, workdir, its evaluation, its weights in a file) of a run."""
    folder = tmp_path_factory.mktemp("convert")
    file = runs.write_config(folder / "tiny.py", runs.tiny_config(data_dir))
    workdir, weights = shutil.copytree(finished_run, folder / "run"), folder / "run.safetensors"
    assert main(["convert", f"--workdir={workdir}", f"--to_torch={weights}"]) == 0
    return file, workdir, runs.summary(workdir)["final"], weights


def evaluation(workdir):
    assert main(["eval", f"--workdir={workdir}"]) == 0
    return json.loads((workdir / "evaluation.json").read_text())


@pytest.mark.parametrize("averaged", [0, 0.5])
def test_what_is_written_and_read_has_the_same_accuracy(trained, tmp_path, capsys, averaged):
    file, _, final, weights = trained
    workdir = tmp_path / "run"
    arguments = ["convert", f"--config={file}", f"--workdir={workdir}"]
    arguments += [f"--config.ema_decay={averaged}", f"--from_torch={weights}"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{workdir} has the weights of {weights} as those of sparsenet10_k4" in out
    assert evaluation(workdir) == {**final, "step": 0}

    again = tmp_path / "again.safetensors"
    assert main(["convert", f"--workdir={workdir}", f"--to_torch={again}"]) == 0
    assert again.read_bytes() == weights.read_bytes()


def import_densenet(config, workdir):
    """Makes a workdir of a DenseNet's weights, and returns them by the names of its authors."""
    name = "densenet_bc16_k4"
    shapes = jax.eval_shape(
        create_model(name).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    )
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)
    ours = to_torch(name, variables, input_shape=(8, 8, 1))
    file = workdir.with_suffix(".safetensors")
    write_state_dict(file, ours)
    arguments = ["convert", f"--config={config}", f"--workdir={workdir}"]
    network = (f"--config.model.name={name}", "--config.model.args={}")
    assert main([*arguments, f"--from_torch={file}", *network]) == 0
    return ours


def test_names_are_those_of_the_dialect(trained, tmp_path):
    ours = import_densenet(trained[0], tmp_path / "dense")
    other = tmp_path / "timm.safetensors"
    arguments = ["convert", f"--workdir={tmp_path / 'dense'}", f"--to_torch={other}"]
    assert main([*arguments, "--dialect=timm"]) == 0
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(other)["features.denseblock2.denselayer1.conv2.weight"],
        ours["features.dense-stage-1.block-1.conv2.weight"],
    )


def test_of_a_workdir_without_best_checkpoint_none_is_offered(trained, tmp_path, capsys):
    import_densenet(trained[0], tmp_path / "dense")
    capsys.readouterr()
    arguments = ["convert", f"--workdir={tmp_path / 'dense'}", "--checkpoint=99"]
    assert main([*arguments, f"--to_torch={tmp_path / 'new.safetensors'}"]) == 2
    assert capsys.readouterr().err.endswith("; allowed: latest, 0\n")


def test_a_loss_that_is_not_finite_ends_an_evaluation_in_one_line(trained, tmp_path, capsys):
    """Weights that are finite can overflow."""
    file, _, _, weights = trained
    large = dict(safetensors.numpy.load_file(weights))
    large["classifier.linear.bias"] = np.float32([3e38, -3e38] * 5)
    safetensors.numpy.save_file(large, tmp_path / "large.safetensors")
    workdir = tmp_path / "run"
    arguments = ["convert", f"--config={file}", f"--workdir={workdir}"]
    assert main([*arguments, f"--from_torch={tmp_path / 'large.safetensors'}"]) == 0
    assert main(["eval", f"--workdir={workdir}"]) == 3
    err = capsys.readouterr().err
    assert err == "error: the loss of the evaluation is not finite at step 0\n"
    assert not (workdir / "evaluation.json").exists()


def test_the_best_checkpoint_can_be_written(trained, tmp_path, capsys):
    _, workdir, _, _ = trained
    arguments = ["convert", f"--workdir={workdir}", "--checkpoint=best"]
    assert main([*arguments, f"--to_torch={tmp_path / 'best.safetensors'}"]) == 0
    assert f"after step {runs.summary(workdir)['best']['step']}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_goes_on_from_the_weights(trained, tmp_path):
    """From those that a run begins with it comes to the same end, to the bit."""
    file, run, _, _ = trained
    config = config_lib.load(str(file))
    model = create_configured_model(config, 10)
    optimizer, _ = make_optimizer(config, 10, 1.0)
    # Compiled as in a run: initial values depend on it in their last bit.
    new_state = jax.jit(
        lambda: create_state(model, optimizer, config, (8, 8, 1), Classification.sums),
        compiler_options=fast_compile_options(),
    )
    state = new_state()
    first = tmp_path / "first.safetensors"
    write_state_dict(
        first, to_torch(config.model.name, state.variables, input_shape=(8, 8, 1), dropout=0.1)
    )
    arguments = [f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    assert main(["convert", *arguments, f"--from_torch={first}"]) == 0
    assert main(arguments) == 0
    assert runs.summary(tmp_path / "run")["fingerprint"] == runs.summary(run)["fingerprint"]


def test_a_workdir_that_holds_a_run_stays_as_it_was(trained, capsys):
    file, workdir, final, weights = trained
    arguments = ["convert", f"--config={file}", f"--workdir={workdir}"]
    before = sorted(workdir.rglob("*"))
    assert main([*arguments, f"--from_torch={weights}"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before
    assert evaluation(workdir) == final


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config=CONFIG --workdir=NEW --from_torch=W --class_names=N", "is for classification"),
        ("--workdir=RUN --to_torch=OUT --dialect=timm", "'timm'; allowed: torchvision"),
        ("--workdir=RUN --to_torch=OUT --epsilon=1e-3", "--epsilon is for --from_torch, and"),
    ],
)
def test_flags_that_are_not_for_detectors(
    finished_detection, scenes_dir, tmp_path, capsys, arguments, said
):
    config = runs.write_config(tmp_path / "tiny.py", tiny_detection(scenes_dir))
    for word, stands_for in [
        ("CONFIG", config),
        ("NEW", tmp_path / "new"),
        ("RUN", finished_detection),
        ("OUT", tmp_path / "out.safetensors"),
    ]:
        arguments = arguments.replace(word, str(stands_for))
    assert main(["convert", *arguments.split()]) == 2
    assert said in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [config]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("convert --workdir=NEW", "needs one of --from_torch=FILE and --to_torch=FILE"),
        ("convert --workdir=NEW --to_torch=a.pth --from_torch=b.pth", "needs one of"),
        ("convert --workdir=NEW --from_torch=WEIGHTS", "--config is missing"),
        ("convert --workdir=RUN --config=CONFIG --to_torch=OUT", "config of the workdir"),
        ("convert --workdir=NEW --to_torch=OUT", "there is no workdir"),
        ("convert --workdir=RUN --to_torch=OUT --checkpoint=9", "allowed: latest, best, "),
        ("convert --workdir=RUN --to_torch=OUT --dialect=tim", "allowed: aggnets, reference"),
        ("convert --workdir=RUN --to_torch=WEIGHTS", "exists already"),
        ("convert --workdir=RUN --to_torch=", "--to_torch is empty"),
        ("IMPORT --from_torch=", "--from_torch is empty"),
        ("convert --workdir=RUN --to_torch=OUT.npz", "allowed: .safetensors"),
        ("train --config=CONFIG --workdir=NEW --from_torch=WEIGHTS", "is for aggnets convert"),
        ("eval --workdir=RUN --to_torch=OUT", "--to_torch is for aggnets convert, not for"),
        ("IMPORT --from_torch=WEIGHTS --dialect=timm", "--dialect is for --to_torch"),
        ("convert --workdir=RUN --to_torch=OUT --data_dir=D", "--data_dir is for --from_torch"),
        ("IMPORT --from_torch=WEIGHTS --checkpoint=best", "--checkpoint is for"),
        ("IMPORT --from_torch=NOWHERE", "nowhere.safetensors can't be read"),
        ("IMPORT --from_torch=CONFIG", "allowed: .safetensors"),
        ("IMPORT --from_torch=OTHER", "'classifier.linear.bias' has the shape (11,)"),
        (f"IMPORT --from_torch=WEIGHTS {ANOTHER}=sparsenet_bc22_k4", "are missing"),
        (f"IMPORT --from_torch=WEIGHTS {ANOTHER}=preact_resnet20", "'preact_resnet20'"),
        ("IMPORT --from_torch=WEIGHTS --data_dir=/nowhere", "/nowhere"),
        ("IMPORT --from_torch=WEIGHTS --config.schedule=cosin", "nearest: cosine"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(trained, tmp_path, capsys, arguments, said):
    config, workdir, _, weights = trained
    wrong = dict(safetensors.numpy.load_file(weights))
    wrong["classifier.linear.bias"] = np.zeros(11, np.float32)
    safetensors.numpy.save_file(wrong, tmp_path / "wrong.safetensors")
    for word, stands_for in [
        ("IMPORT", "convert --config=CONFIG --workdir=NEW"),
        ("CONFIG", config),
        ("NEW", tmp_path / "new"),
        ("RUN", workdir),
        ("OUT.npz", tmp_path / "out.npz"),
        ("OUT", tmp_path / "out.safetensors"),
        ("WEIGHTS", weights),
        ("OTHER", tmp_path / "wrong.safetensors"),
        ("NOWHERE", tmp_path / "nowhere.safetensors"),
    ]:
        arguments = arguments.replace(word, str(stands_for))
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.safetensors"]
