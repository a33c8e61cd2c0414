"""The report and the page of a detector's run."""

import re
import shutil

import pytest
from PIL import Image

from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.main import main


@pytest.fixture(scope="module")
def reported(finished_detection, tmp_path_factory):
    """The workdir of a run with its page, and the page's text."""
    workdir = shutil.copytree(finished_detection, tmp_path_factory.mktemp("page") / "run")
    evaluate_checkpoint(workdir)
    (workdir / "ablation").mkdir()
    Image.new("RGB", (4, 4)).save(workdir / "ablation" / "links.png")
    assert main(["report", f"--workdir={workdir}", "--html"]) == 0
    return workdir, (workdir / "report.html").read_text()


def test_the_report_has_average_precision_and_curves(reported):
    workdir, _ = reported
    for name in ("curves.png", "topology.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_has_all_parts_of_a_detector(reported):
    _, page = reported
    sections = re.findall(r'<section id="(\w+)"', page)
    first = ["results", "config", "training", "connections"]
    assert sections == [*first, "precision", "images", "ablation", "environment"]
    assert "Not shown" not in page
    headings = re.findall(r'<th scope="col" class="number">([^<]*)</th>', page)
    assert {"step", "box AP", "box AP50", "mask AP"} <= set(headings)
    assert "accuracy" not in " ".join(headings)
    # Five of the six images have objects; none is among the best and the worst.
    for text in ("The best 3 images", "The worst 2 images", "Precision of masks by recall"):
        assert text in page


def test_the_restored_precision_is_compared(reported, capsys):
    workdir, _ = reported
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert "the same box AP" in capsys.readouterr().out
    evaluation = workdir / "evaluation.json"
    evaluation.write_text(re.sub(r'"bbox_AP": [^,]*', '"bbox_AP": 0.5', evaluation.read_text()))
    assert main(["report", f"--workdir={workdir}"]) == 2
    assert "box AP 0.5" in capsys.readouterr().err
