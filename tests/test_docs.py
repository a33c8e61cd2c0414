"""The documentation is true: examples, commands, paths, names and links."""

import doctest
import importlib
import re
import shlex

import numpy as np
import pytest

import aggnets_jax
from aggnets_jax import commands
from aggnets_jax.connectivity.patterns import PATTERNS
from aggnets_jax.models import list_families
from aggnets_jax.models.family_arguments import list_arguments
from aggnets_jax.models.page import family_row
from aggnets_jax.models.registry import find_family
from tests import runs
from tests.test_house import WINGS

DOCS = sorted((runs.ROOT / "docs").glob("*.md"))
PAGES = [
    *(runs.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    runs.ROOT / "results" / "README.md",
    *DOCS,
]
EACH_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(runs.ROOT).with_suffix(""))
)
PACKAGE = runs.ROOT / "aggnets_jax"
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_examples_give_what_they_say(page):
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_the_examples_are_found():
    parser = doctest.DocTestParser()
    assert sum(len(parser.get_examples(page.read_text())) for page in DOCS) >= 10


@EACH_PAGE
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_network_of_a_run_classifies_in_a_program_of_ones_own(finished_run):
    page = (runs.ROOT / "docs" / "own_loop.md").read_text()
    code = (
        page.partition("## The network of a run")[2].partition("```python\n")[2].partition("```")[0]
    )
    names = {}
    exec(code.replace("runs/sparse", str(finished_run)), names)
    restored = names["restored"]
    classes = names["classify"](restored.variables, np.zeros((3, 8, 8, 1), np.uint8))
    assert [restored.info.class_names[i] for i in classes] == [str(classes[0])] * 3


def shell_commands(text):
    """The command lines `aggnets ...` in the code blocks of a page."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [
        match[1] for line in lines if (match := re.match(r"    (?:.*\s)?(aggnets [a-z].*)", line))
    ]


@EACH_PAGE
def test_commands_parse(page):
    for line in shell_commands(page.read_text()):
        _, name, *words = shlex.split(line, comments=True)
        assert name in commands.NAMES, line
        commands.make_parser(name).parse(words)


@EACH_PAGE
def test_commands_in_sentences_exist(page):
    for line in re.findall(r"`aggnets ([^`\n]+)`", page.read_text()):
        name, *words = line.split()
        if re.match("[a-z]", name):  # neither a placeholder nor a flag
            assert name in commands.NAMES, line
            parser = commands.make_parser(name)
            flags = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert all(map(parser.has, flags)), line


def test_the_commands_are_found():
    assert sum(len(shell_commands(page.read_text())) for page in PAGES) >= 60


@EACH_PAGE
def test_former_command_lines_are_gone(page):
    assert not re.search(r"python -m aggnets_jax|--mode=", page.read_text())


@EACH_PAGE
def test_dotted_names_exist(page):
    for name in set(re.findall(r"\baggnets_jax(?:\.\w+)+", page.read_text())):
        assert exists(name), name


def exists(name):
    """Return whether a dotted name is a module or an attribute of one."""
    *path, last = name.split(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(".".join(path)), last)
    return True


@EACH_PAGE
def test_paths_exist(page):
    folders = "|".join(("aggnets_jax", "configs", "docs", "launch", "results", "tests"))
    paths = re.findall(rf"(?<![\w/.])(?:{folders})/[\w/.-]*\w", page.read_text())
    # Words in capitals are placeholders, and --output=results/NAME has no suffix.
    given = [path for path in paths if not re.search(r"\b[A-Z]+\b", path)]
    assert [path for path in given if not any(runs.ROOT.glob(f"{path}*"))] == []


@EACH_PAGE
def test_tables_have_a_head_and_rows_of_its_length(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, line, *rows = table.splitlines()
        assert re.fullmatch(r"[-:| ]+", line), head
        lengths = {len(re.findall(r"(?<!\\)\|", row)) for row in (head, line, *rows)}
        assert len(lengths) == 1, head


def test_every_way_to_drop_is_documented():
    text = (runs.ROOT / "docs" / "networks.md").read_text()
    text = text.partition("## Regularisation inside the network")[2].partition("\n## ")[0]
    known = {
        name
        for family in list_families()
        for name in list_arguments(find_family(family).build)
        if re.search("drop|stochastic|dynamic", name)
    }
    assert {name for name in known if f"`{name}`" not in text} == set()


def test_every_pattern_and_family_is_documented():
    topologies = (runs.ROOT / "docs" / "topologies.md").read_text()
    models = (runs.ROOT / "docs" / "models.md").read_text()
    assert [name for name in PATTERNS if f"`{name}`" not in topologies] == []
    assert [name for name in list_families() if family_row(name) not in models] == []


def test_the_count_in_the_readme():
    readme = (runs.ROOT / "README.md").read_text()
    params = aggnets_jax.model_info("sparsenet_bc100_k24").params
    assert f'model_info("sparsenet_bc100_k24").params        # {params}' in readme


ARCHITECTURE = (runs.ROOT / "docs" / "architecture.md").read_text()


def test_the_wings_of_the_architecture():
    rows = re.findall(r"^\| `(\w+)` \| ", ARCHITECTURE, re.MULTILINE)
    assert rows == list(WINGS)


def test_the_files_of_the_architecture_exist():
    files = re.findall(r"`([a-z_/]+\.py)`", ARCHITECTURE)
    assert len(files) > 20
    files = {file for file in files if not file.startswith("configs/")}
    assert [file for file in sorted(files) if not (PACKAGE / file).is_file()] == []


def test_every_page_is_on_the_site():
    site = (runs.ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in DOCS if f": {page.name}\n" not in site] == []
