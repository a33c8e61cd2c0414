"""The steps of CONTRIBUTING.md, taken as they are written, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests import runs

STEPS = re.findall(
    r"```(?:python|text)\n# (\S+?)(?:, in ([^\n]+))?\n(.*?)```",
    textwrap.dedent((runs.ROOT / "CONTRIBUTING.md").read_text().replace("\n   ", "\n")),
    re.DOTALL,
)
# Tests of all patterns and of all families; the second only for the new one.
OF_PATTERNS = ("tests/connectivity/test_topology.py", "tests/connectivity/test_stage.py")
OF_FAMILIES = ("tests/models/test_swap.py", "tests/connectivity/test_links.py")


def test_each_step_names_a_file_and_a_place_in_it():
    assert len(STEPS) == 5
    for file, place, code in STEPS:
        lines = (runs.ROOT / file).read_text().splitlines()
        assert not place or sum(line.startswith(place) for line in lines) == 1
        assert code.strip()


@pytest.mark.slow
def test_a_pattern_and_a_family_pass_the_tests_of_all(tmp_path):
    for name in ("aggnets_jax", "configs", "docs", "tests"):
        shutil.copytree(
            runs.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(runs.ROOT / name, tmp_path)
    page = (runs.ROOT / "docs" / "plugins.md").read_text().partition("## A family\n")[2]
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "aggnets_jax" / "models" / "my_net.py").write_text(code)
    for file, place, code in STEPS:
        text = (tmp_path / file).read_text()
        if place:
            begin = re.search(rf"^{re.escape(place)}.*\n", text, re.MULTILINE).end()
            text = text[:begin] + textwrap.indent(code, "    ") + text[begin:]
        else:
            text += f"\n\n{code}"
        (tmp_path / file).write_text(text)

    def passes(*arguments):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return int(re.search(r"(\d+) passed", done.stdout)[1])

    assert passes(*OF_PATTERNS, "-k", "not slow") > 20
    assert passes(*OF_FAMILIES, "-k", "my_net or tiny_network") > 4
