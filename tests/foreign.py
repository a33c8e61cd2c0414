"""Any values, and code among them: it must be used as data, or refused in one line."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggnets_jax.errors import UserError

# What leaves a file if anybody runs it.
RAN = Path(tempfile.gettempdir()) / f"aggnets_jax_test_code_ran_{os.getpid()}"
CODE = f"__import__('pathlib').Path({str(RAN)!r}).touch()"

TEXTS = st.text(max_size=6) | st.sampled_from(
    [
        CODE,
        "../../evil",
        "/etc/passwd",
        "~nobody/x",
        "{0.__class__}",
        "%s%n",
        "[/red]",
        "a\nb",
        "\0",
    ]
)
NUMBERS = (
    st.integers(-3, 40)
    | st.floats()
    | st.sampled_from([10**9, -(10**9), 2**31, 2**63, 2**64, 10**30, 10**400])
)
NAMES = st.sampled_from(
    ["__class__", "a.b", "base", "depth", "dropout", "edges", "items", "name", "num_classes", "x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=3),
    max_leaves=6,
)
# Python's own readers give up at some hundreds of levels.
DEEP = st.integers(1, 3000).map(lambda levels: "[" * levels + "]" * levels)
BYTES = (
    st.binary(max_size=30)
    | JSON.map(lambda value: json.dumps(value).encode())
    | DEEP.map(lambda text: b'{"seed": ' + text.encode() + b"}")
    | st.just(b"1" * 5000)
)


def fields_of(value, path=()):
    """The paths of everything in JSON data."""
    items = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())(value)
    for name, inner in items:
        yield (*path, name)
        yield from fields_of(inner, (*path, name))


@st.composite
def changed(draw, value, paths=None):
    """JSON data with one thing in it replaced, removed or renamed."""
    value = json.loads(json.dumps(value))
    *path, name = draw(st.sampled_from(paths or [*fields_of(value)]))
    group = value
    for step in path:
        group = group[step]
    what = draw(st.sampled_from(["replaced", "replaced", "replaced", "removed", "renamed"]))
    if what == "replaced":
        group[name] = draw(JSON)
    else:
        old = group.pop(name)
        if what == "renamed" and isinstance(group, dict):
            group[draw(NAMES | TEXTS)] = old
    return value


# ---- How much is tried, and what is allowed.


def few_and_many(few, many):
    """Runs a test with a few examples, and with many among the slow tests."""
    slow = pytest.param(many, marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [few, slow], ids=["few", "many"])


def fuzz(examples, *strategies, also=()):
    """Runs the decorated function with examples of strategies, the same ones every time."""

    def run(test):
        for value in also:
            test = example(value)(test)
        settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(*strategies)(test))()

    return run


REFUSED = object()


def result_of(call, *arguments):
    """Return what a call returns, or REFUSED if it was refused as mistakes of users are."""
    try:
        return call(*arguments)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return REFUSED


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def nothing_ran():
    """In modules that import it: no test ran `CODE`."""
    yield
    ran = RAN.exists()
    RAN.unlink(missing_ok=True)
    assert not ran
