"""The map of the package: its wings, from the ground up, and who may import whom."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

from tests import runs

PACKAGE = runs.ROOT / "aggnets_jax"

# Each wing imports only from itself and from the wings above it in this table.
WINGS = {
    "errors": "mistakes as one line, with an exit code",
    "arguments": "checks of arguments, with the nearest allowed name",
    "buckets": "clients of gs:// and s3://, and their errors",
    "files": "files that are whole or absent",
    "hub": "files of networks on the Hugging Face Hub",
    "tables": "tables as CSV, Markdown and on the terminal",
    "statistics": "confidence intervals and paired tests",
    "runtime": "devices, processes, compiled programs",
    "cli": "what the subcommands share",
    "connectivity": "how layers read earlier layers",
    "config_fields": "config files, and their fields by name",
    "config": "configs, resolved against configs/default.py and checked",
    "layers": "layers that several families share",
    "models": "one file for each family of networks",
    "detection": "the parts of detectors, on any backbone",
    "data": "data sets, their batches and augmentation",
    "training": "the step, and what a config chooses of it",
    "tasks": "data, loss, metrics and evaluation of a task",
    "workdir": "what a run writes, and how it is restored",
    "convert": "weights from and to PyTorch",
    "evaluate": "the one evaluation path",
    "train": "the one training loop",
    "export": "trained networks as programs that run without this package",
    "predict": "classes of new images, or objects in them",
    "ablation": "networks without some of their links",
    "analysis": "what a trained network does",
    "reports": "pages, comparisons and tables of runs",
    "benchmark": "speed and memory, also of devices that are not here",
    "commands": "the subcommands of `aggnets`, with their flags",
    "main": "the command `aggnets`",
}
ORDER = list(WINGS)


def module_name(file: Path) -> str:
    parts = file.relative_to(runs.ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(file: Path) -> set[str]:
    """Return the modules of the package that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name in MODULES}


@functools.cache
def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    return {name: imported_modules(file) for name, file in MODULES.items()}


def wing(module: str) -> str:
    return module.split(".")[1]


def test_every_module_stands_in_a_wing():
    wings = {wing(name) for name in MODULES if "." in name}
    assert wings - {"__main__"} == set(WINGS)


def test_few_files_stand_at_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= 14


@pytest.mark.parametrize("name", [name for name in MODULES if wing(f"{name}.") in WINGS])
def test_a_module_imports_from_no_wing_above_its_own(name):
    above = ORDER[ORDER.index(wing(name)) + 1 :]
    # The package itself has nothing but the version and public names.
    assert not {module for module in imports()[name] if wing(f"{module}.") in above}


def test_no_import_circle():
    graph = {name: found - {"aggnets_jax", name} for name, found in imports().items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_tests_stand_where_the_names_of_modules_lead():
    folders = {file.parent.relative_to(PACKAGE) for file in MODULES.values()}
    for file in (runs.ROOT / "tests").rglob("test_*.py"):
        folder = file.parent.relative_to(runs.ROOT / "tests")
        assert folder in folders or folder.name in ("launch", "tests", ""), file
