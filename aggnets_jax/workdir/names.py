"""Names of workdirs in which checkpoints can't be kept."""

from pathlib import Path

from aggnets_jax.errors import UserError

# etils, by which Orbax handles paths, takes these for buckets.
_SCHEMES = ("gs", "s3", "az", "hf")


def check_name(path: Path, *, writes: bool) -> None:
    """Check that checkpoints in a local workdir can be read and, with `writes`, written.

    Orbax looks for the files that it has written by a shell pattern with the workdir's path in it.
    With "run[1]" it finds none, and reports no error; with "run*" also those of another run.
    TensorStore reads a backslash as a slash, has files of its own that end with
    ".__lock", and takes paths in UTF-8 only.

    Raises:
      UserError: if they can't.
    """
    path = path.absolute()
    wrong = [repr(text) for text in ("\\", *("*?[" if writes else ["**"])) if text in str(path)]
    for part in path.parts:
        if part in [f"{name}:" for name in _SCHEMES] or part.endswith(".__lock"):
            wrong.append(repr(part))
    wrong += [f"/{part} at the root" for part in path.parts[1:2] if part in _SCHEMES]
    try:
        str(path).encode()
    except UnicodeEncodeError:
        wrong.append("bytes that are no UTF-8")
    if wrong:
        raise UserError(
            f"workdir {path} can't be used: checkpoints can't be kept in a path with"
            f" {', '.join(wrong)}; give another path, or a symbolic link to it"
        )
