"""Buckets, gs:// and s3://: the settings of their clients, and their errors as one line.

etils' `epath.Path` reads and writes objects through the packages gcsfs and s3fs. They repeat failed
requests for about half a minute, so an error here has lasted that long.
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec
import fsspec.config
from etils import epath

from aggnets_jax.errors import UserError, one_line, unknown

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_CREDENTIALS = {
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS=FILE",
    "s3": "aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
# The packages whose exceptions mean that a request has failed.
_CLIENTS = (
    *("aiobotocore.", "aiohttp.", "botocore.", "gcsfs.", "google.api_core.", "google.auth."),
    *("requests.", "s3fs."),
)

if importlib.util.find_spec("gcsfs"):
    # Otherwise etils takes TensorFlow's file system, which has no conditional writes.
    os.environ.setdefault("EPATH_USE_TF", "false")
# This would ask another service, without repeating, for the kind of each bucket.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
_OPTIONS: dict[str, dict[str, Any]] = {
    # Other processes write to the same bucket.
    "gcs": {"use_listings_cache": False},
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}},
    },
}
for _protocol, _options in _OPTIONS.items():
    fsspec.config.conf[_protocol] = {**_options, **fsspec.config.conf.get(_protocol, {})}


def is_url(path: object) -> bool:
    """Return whether a path begins with a scheme, as gs://bucket/folder does."""
    return "://" in str(path)


def file_system(path: epath.Path) -> fsspec.AbstractFileSystem:
    """Return the client of a path's bucket; its methods take paths as text."""
    return fsspec.core.url_to_fs(str(path))[0]


def object_names(folder: epath.Path) -> list[str]:
    """Return the names of the objects in a folder and below, relative to it."""
    # The client's names have no scheme.
    start = len(str(folder).partition("://")[2]) + 1
    return [name[start:] for name in file_system(folder).find(str(folder))]


def bucket_path(url: str) -> epath.Path:
    """Return the path of an object or folder in a bucket that can be read.

    Raises:
      UserError: for another kind of URL, a client that is not installed, missing credentials, a
        bucket that is not there, and a bucket that may not be read.
      OSError: if the storage does not answer.
    """
    scheme, _, place = url.partition("://")
    if scheme not in _PACKAGES:
        raise unknown("kind of bucket", f"{scheme}://", [f"{name}://" for name in _PACKAGES])
    if importlib.util.find_spec(_PACKAGES[scheme]) is None:
        raise UserError(f"{url} needs {_PACKAGES[scheme]}: pip install 'aggnets-jax[buckets]'")
    bucket = place.partition("/")[0]
    if not bucket:
        raise UserError(f"{url} names no bucket; a path is {scheme}://BUCKET/FOLDER")
    if found := re.search(r"[*?\[\]#\x00-\x1f\x7f]", place):
        # Patterns for the clients, and ends of a path for Orbax.
        raise UserError(f"a path in a bucket has no {found[0]!r}, and {url!r} has")
    if scheme == "s3":
        from s3fs.core import set_custom_error_handler

        # Servers other than Amazon's answer 429 to too many requests.
        set_custom_error_handler(lambda error: "(429)" in str(error))
    _check_access(f"{scheme}://{bucket}")
    return epath.Path(url.rstrip("/"))


@functools.cache
def _check_access(bucket: str) -> None:
    """Check that a bucket exists and can be read; raise as `bucket_path` does."""
    scheme, _, name = bucket.partition("://")
    client = file_system(epath.Path(bucket))
    try:
        if scheme == "gs":
            client.call("GET", "b/{}", name, json_out=True)  # for Orbax
            client.call("GET", "b/{}/o", name, maxResults=1, json_out=True)
        else:
            client.call_s3("list_objects_v2", Bucket=name, MaxKeys=1)
    except FileNotFoundError:
        raise UserError(f"there is no bucket {bucket}") from None
    except Exception as error:
        reason = denial(error)
        if reason is None:
            raise as_os_error(error, bucket) from error
        told = (
            f"bucket {bucket} can't be read: {reason}; credentials come from {_CREDENTIALS[scheme]}"
        )
        raise UserError(told) from error


def denial(error: BaseException) -> str | None:
    """Return why a request was refused for lack of credentials or permission; else None."""
    text = one_line(error)
    refused = isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)
    missing = type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError")
    return text if refused or missing or text.startswith("Forbidden") else None


def is_storage_error(error: BaseException) -> bool:
    """Return whether an error is the storage's: the operating system's, or a bucket client's."""
    return isinstance(error, OSError) or type(error).__module__.startswith(_CLIENTS)


def as_os_error(error: BaseException, place: object) -> BaseException:
    """Return the error of a bucket's client as an `OSError` that names the place, or any other."""
    if not is_storage_error(error) or isinstance(error, FileNotFoundError | FileExistsError):
        return error
    return OSError(f"{place}: {one_line(error)}")


@contextlib.contextmanager
def storage(place: object) -> Iterator[None]:
    """Raise `OSError` with the name of the place for errors of a bucket's client."""
    try:
        yield
    except Exception as error:
        if (told := as_os_error(error, place)) is error:
            raise
        raise told from error
