"""Detectors against figures of independent code, see tests/golden/README.md.

`pytest tests/detection/test_golden.py --golden=FOLDER` runs the files of another folder.
"""

import json
from pathlib import Path

import jax
import pytest

from tests.detection import checks, network_checks

FOLDER = Path(__file__).parents[1] / "golden" / "detection"
CHECKS = {
    name.removeprefix("check_"): check
    for name, check in {**vars(checks), **vars(network_checks)}.items()
    if name.startswith("check_")  # a file of another kind is a failure
}
SLOW = ("proposals_a", "roi_align_a", "torchvision_a")


def pytest_generate_tests(metafunc):
    folder = Path(metafunc.config.getoption("golden") or FOLDER)
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("dissection"))
    cases = [
        pytest.param(file, id=file.stem, marks=pytest.mark.slow if file.stem in SLOW else ())
        for file in files
    ]
    metafunc.parametrize("file", cases)


def test_figures(file):
    kind = file.stem.rpartition("_")[0]
    golden = json.loads(file.read_text())
    with jax.enable_x64(True):
        CHECKS[kind](golden["input"], golden["output"])
