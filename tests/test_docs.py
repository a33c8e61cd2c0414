"""What the documentation shows is what happens."""

import doctest
import re

import pytest

import aggnets_jax
from aggnets_jax.connectivity.topology import PATTERNS
from aggnets_jax.models import list_families
from aggnets_jax.models.page import family_row
from tests import runs

DOCS = sorted((runs.ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.stem)
def test_examples_give_what_they_say(file):
    assert doctest.testfile(str(file), module_relative=False).failed == 0


def test_the_examples_are_found():
    parser = doctest.DocTestParser()
    assert sum(len(parser.get_examples(file.read_text())) for file in DOCS) >= 10


@pytest.mark.parametrize("file", [runs.ROOT / "README.md", *DOCS], ids=lambda file: file.stem)
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target


def test_every_pattern_and_family_is_documented():
    topologies = (runs.ROOT / "docs" / "topologies.md").read_text()
    models = (runs.ROOT / "docs" / "models.md").read_text()
    assert [name for name in PATTERNS if f"`{name}`" not in topologies] == []
    assert [name for name in list_families() if family_row(name) not in models] == []


def test_the_count_in_the_readme():
    readme = (runs.ROOT / "README.md").read_text()
    params = aggnets_jax.model_info("sparsenet_bc100_k24").params
    assert f'model_info("sparsenet_bc100_k24").params        # {params}' in readme
