"""Links of a detector's backbone, cut and ranked by average precision."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.ablation import detectors
from aggnets_jax.ablation.sweep import linked_stages
from aggnets_jax.connectivity import links as links_lib
from aggnets_jax.main import main
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.marks import mostly_slow


@pytest.fixture(scope="module")
def restored(finished_detection):
    return restore_network(finished_detection, "latest", mesh_lib.replicated(mesh_lib.make_mesh()))


@pytest.mark.slow
def test_a_cut_link_changes_the_features_behind_it_alone(restored):
    stages = linked_stages(restored)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 64, 64, 3)), jnp.float32)

    @jax.jit
    def features(masks):
        variables = {**restored.variables, "links": {"backbone": masks}}
        return restored.model.apply(variables, images, method="features")

    def cut(links):
        return features(links_lib.collection(links_lib.masks_without(stages, links))["links"])

    whole = cut(())
    plain = restored.model.apply(restored.variables, images, method="features")
    np.testing.assert_allclose(whole[0], plain[0], rtol=1e-4, atol=1e-4)
    for link in links_lib.all_links(stages):
        changed = cut([link])
        assert jnp.abs(changed[-1] - whole[-1]).max() > 0, link


@pytest.mark.slow
def test_a_sweep_writes_average_precision_of_each_link(
    restored, finished_detection, tmp_path, capsys
):
    output = tmp_path / "ablation"
    command = ["ablate", f"--workdir={finished_detection}", f"--output={output}", "--sweep=links"]
    assert main(command) == 0
    with (output / "links.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(links_lib.all_links(linked_stages(restored)))
    wanted = ["stage", "layer", "source", *detectors.BOX_COLUMNS, *detectors.MASK_COLUMNS]
    assert list(rows[0]) == wanted
    record = json.loads((output / "ablation.json").read_text())
    final = runs.summary(finished_detection)["final"]
    # Multiplied by masks of 1, equal scores may change their order.
    assert record["baseline"]["bbox_AP"] == pytest.approx(final["bbox_AP"], abs=0.02)
    assert record["examples"] == final["examples"]
    for row in rows:
        change = float(row["bbox_AP"]) - record["baseline"]["bbox_AP"]
        assert float(row["delta"]) == pytest.approx(change, abs=1e-6)
    assert (output / "links.png").exists()
    assert "links whose cut costs most box AP" in capsys.readouterr().out


def test_precision_without_masks_is_of_boxes_alone():
    found = detectors._precision({"bbox_AP": 0.25, "bbox_AP50": 0.5}, {"bbox_AP": 0.75})
    assert found[:3] == (0.25, -0.5, 0.5)
    assert np.isnan(found[3:]).all()


@mostly_slow(
    "flags", [["--export=out", "--cut=stage1:1-0"], ["--reestimate_batch_statistics=1"]], quick=(0,)
)
def test_what_is_for_classification_is_refused(finished_detection, flags, capsys, tmp_path):
    flags = [f.replace("=out", f"={tmp_path / 'out'}") for f in flags]
    assert main(["ablate", f"--workdir={finished_detection}", *flags]) == 2
    assert "classification" in capsys.readouterr().err


@pytest.mark.parametrize("analysis", ["weights", "grad_cam", "calibration"])
def test_analyses_are_for_classifiers(finished_detection, analysis, capsys):
    assert main(["analyse", analysis, f"--workdir={finished_detection}"]) == 2
    error = capsys.readouterr().err
    assert f"{analysis} is for classification" in error and "a run of detection" in error
