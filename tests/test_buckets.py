"""Paths in buckets: what is refused, in one line, and requests that are repeated."""

import importlib.util
import time

import fsspec
import pytest

from aggnets_jax import buckets as buckets_module
from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path, read_json, read_text, whole_file, write_bytes, write_text
from aggnets_jax.main import main


@pytest.fixture(autouse=True)
def unchecked():
    """No bucket is known to be readable."""
    buckets_module._check_access.cache_clear()
    yield
    buckets_module._check_access.cache_clear()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("http://host/run", "unknown kind of bucket 'http://'; nearest: s3://, gs://"),
        ("gcs://host/run", "unknown kind of bucket 'gcs://'; nearest: gs://, s3://"),
        ("gs://", "gs:// names no bucket; a path is gs://BUCKET/FOLDER"),
        ("gs://bucket/run#1", "a path in a bucket has no '#', and 'gs://bucket/run#1' has"),
        ("s3://bucket/runs/*", "a path in a bucket has no '*', and 's3://bucket/runs/*' has"),
        ("s3:///run", "s3:///run names no bucket; a path is s3://BUCKET/FOLDER"),
    ],
)
def test_urls_of_no_bucket(path, said, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError) as error:
        any_path(path)
    assert str(error.value) == said


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_client_that_is_not_installed(scheme, package, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["results", f"{scheme}://bucket/run", "--output=x"]) == 2
    said = f"error: {scheme}://bucket/run needs {package}: pip install 'aggnets-jax[buckets]'\n"
    assert capsys.readouterr().err == said


def test_a_bucket_that_is_not_there(server, capsys):
    assert main(["results", f"{server.bucket}-other/run", "--output=x"]) == 2
    assert capsys.readouterr().err == f"error: there is no bucket {server.bucket}-other\n"


def test_a_bucket_that_may_not_be_read(server, capsys):
    server.refuse = lambda path: 403
    assert main(["results", f"{server.bucket}/run", "--output=x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: bucket {server.bucket} can't be read: ")
    assert "credentials come from " in said and said.count("\n") == 1


def test_a_gs_bucket_whose_metadata_may_not_be_read(gs_server, capsys):
    """Orbax asks for it, and `roles/storage.objectUser` does not allow it."""
    gs_server.behave()
    gs_server.refuse = lambda path: None if "/o" in path else 403
    assert main(["results", f"{gs_server.bucket}/run", "--output=x"]) == 2
    gs_server.behave()
    said = capsys.readouterr().err
    assert said.startswith(f"error: bucket {gs_server.bucket} can't be read: Forbidden: b/aggnets")


def test_gs_without_credentials(gs_server, capsys):
    gs_server.behave()
    gs_server.refuse = lambda path: 401
    assert main(["results", f"{gs_server.bucket}/run", "--output=x"]) == 2
    gs_server.behave()
    said = capsys.readouterr().err
    assert "can't be read: Anonymous caller does not have access, 401; credentials come f" in said
    assert said.count("\n") == 1


def test_s3_without_credentials(s3_server, monkeypatch, capsys):
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        assert main(["results", f"{s3_server.bucket}/run", "--output=x"]) == 2
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    said = capsys.readouterr().err
    assert "can't be read: Unable to locate credentials; credentials come from aws con" in said
    assert said.count("\n") == 1


def test_files(place):
    path = any_path(place)
    write_text(path / "a.json", '{"a": "é"}')
    assert read_json(path / "a.json") == {"a": "é"}
    write_bytes(path / "a.json", b"\xff")
    with pytest.raises(UserError, match=r"a.json is damaged: "):
        read_text(path / "a.json")
    with pytest.raises(UserError, match=r"b.json can't be read: No such file or directory"):
        read_json(path / "b.json")
    with pytest.raises(ZeroDivisionError), whole_file(path / "c") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert not (path / "c").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["away", "slow", "429 and 503"])
def test_requests_are_repeated(trouble, place, server):
    path = any_path(place)
    if trouble == "away":
        server.leave_for(10)
    elif trouble == "slow":
        server.delay = 3
    else:
        server.refuse_some(0.3, 429, 503)
    write_text(path / "a", "content")
    assert read_text(path / "a") == "content"


@pytest.mark.slow
def test_a_server_that_stays_away_ends_a_command(server, capsys):
    fsspec.filesystem(server.bucket[:2]).invalidate_cache()
    server.away, began = True, time.monotonic()
    assert main(["results", f"{server.bucket}/run", "--output=x"]) == 74
    assert 10 < time.monotonic() - began < 120
    said = capsys.readouterr().err
    assert said.startswith(f"error: {server.bucket}: ") and said.count("\n") == 1
