"""Networks on the Hugging Face Hub: files of a repository, by the name "hf-hub:USER/NAME".

A repository has `config.json` and `model.safetensors`, as those of timm do; no other file is read,
and nothing is unpickled. The client is huggingface_hub: it caches files on this machine, finds the
user's token, and takes another server from HF_ENDPOINT.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from aggnets_jax.errors import UserError, import_optional, one_line
from aggnets_jax.files import check_fields, read_json

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OWN = "aggnets_jax"
"""Field of `config.json` with this package's own fields; the others are timm's."""

_PREFIXES = ("hf-hub:", "hf://")
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


class Repository(NamedTuple):
    """A repository on the Hub.

    Attributes:
      name: "USER/NAME".
      revision: branch, tag or commit; None: the main branch.
    """

    name: str
    revision: str | None


def is_on_hub(name: Any) -> bool:
    """Return whether a name names a repository: "hf-hub:USER/NAME" or "hf://USER/NAME"."""
    return isinstance(name, str) and name.startswith(_PREFIXES)


def parse(name: str) -> Repository:
    """Return the repository of a name such as "hf-hub:USER/NAME" or "hf-hub:USER/NAME@REVISION".

    Raises:
      UserError: for a name of another form.
    """
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    match = _NAME.fullmatch(name.removeprefix(prefix))
    if not prefix or not match:
        forms = [f"{each}USER/NAME[@REVISION]" for each in ([prefix] if prefix else _PREFIXES)]
        raise UserError(f"{name!r} is no repository; the form is {' or '.join(forms)}")
    return Repository(*match.groups())


def read_config(name: str) -> dict[str, Any]:
    """Return the content of a repository's `config.json`, with at least its "architecture".

    Raises:
      UserError: if there is no such repository, revision or file, the file is damaged, or the Hub
        can't be reached and the file is not on this machine.
    """
    file = _download(name, CONFIG)
    content = read_json(file)
    check_fields(Path(f"{CONFIG} of {name}"), content, {"architecture": str})
    return content


def download_weights(name: str) -> Path:
    """Return the file of a repository's weights on this machine, with `config.json` beside it.

    Raises:
      UserError: as `read_config`, and for a repository whose weights are pickles.
    """
    _download(name, CONFIG)
    return _download(name, WEIGHTS)


def upload(name: str, folder: Path, *, message: str, private: bool) -> str:
    """Copy the files of a folder to a repository, which is made if it is not there.

    Args:
      name: name of the repository, as for `parse`; a revision must be a branch.
      folder: folder on this machine.
      message: message of the commit.
      private: whether a new repository is private; if not, its owner's default holds.

    Returns:
      The address of the commit.

    Raises:
      UserError: if the user may not write to it, or the Hub can't be reached.
    """
    repository, hub = parse(name), _client()
    with _explained(name, hub):
        api = hub.HfApi(library_name="aggnets_jax")
        api.create_repo(repository.name, private=private or None, exist_ok=True)
        return api.upload_folder(
            repo_id=repository.name,
            folder_path=folder,
            revision=repository.revision,
            commit_message=message,
        ).commit_url


def _download(name: str, file: str) -> Path:
    repository, hub = parse(name), _client()
    with _explained(name, hub, file):
        found = hub.hf_hub_download(
            repository.name, file, revision=repository.revision, library_name="aggnets_jax"
        )
    return Path(found)


def _client() -> ModuleType:
    missing = "the Hugging Face Hub needs huggingface_hub: pip install 'aggnets-jax[hub]'"
    import_optional("huggingface_hub.errors", missing)
    # Without its warnings of each new try.
    import_optional("huggingface_hub.utils.logging", missing).set_verbosity_error()
    return import_optional("huggingface_hub", missing)


@contextlib.contextmanager
def _explained(name: str, hub: ModuleType, file: str = "") -> Iterator[None]:
    """Raise `UserError` for the errors of the client."""
    errors = hub.errors
    try:
        yield
    except errors.RemoteEntryNotFoundError as error:
        pickles = " (pickles are not read)" if file == WEIGHTS else ""
        raise UserError(f"{name} has no {file}{pickles}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: there is no such revision") from error
    except errors.RepositoryNotFoundError as error:  # also without the right to read it
        raise UserError(
            f"there is no repository {name}, or it is private; log in by: hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"the Hub can't be reached, and {file} of {name} is not on this machine"
        ) from error
    # HTTP errors, a lost connection, a name that the Hub refuses, a full disk, a failed upload.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}: {one_line(error)}") from error
