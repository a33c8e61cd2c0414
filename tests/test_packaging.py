"""One version, and annotations for checkers of types; `make package` tries the wheel."""

import re

import aggnets_jax
from tests import runs


def test_the_version_is_said_once_and_cited():
    citation = (runs.ROOT / "CITATION.cff").read_text()
    assert re.search("^version: (.+)$", citation, re.MULTILINE)[1] == aggnets_jax.__version__
    assert f'"{aggnets_jax.__version__}"' not in (runs.ROOT / "setup.py").read_text()


def test_annotations_are_exported():
    assert (runs.ROOT / "aggnets_jax" / "py.typed").exists()
