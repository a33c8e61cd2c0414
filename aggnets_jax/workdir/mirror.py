"""Checkpoints in s3://, which Orbax can't write to.

Orbax writes to a folder on this machine, and the bucket gets copies. A checkpoint in the bucket is
complete if it has the object `commit_success.txt`, which is written last and deleted first. Orbax
does the same in gs://.
"""

import shutil
import tempfile
from pathlib import Path

from etils import epath
from orbax.checkpoint.utils import TMP_DIR_SUFFIX

from aggnets_jax.buckets import file_system, is_url, object_names, storage
from aggnets_jax.files import AnyPath, make_folder

COMMITTED = "commit_success.txt"


class Mirror:
    """A folder on this machine, `root`, for the checkpoints of a workdir in a bucket.

    The steps of a series are folders below `root`, as in a workdir on this machine; those that are
    in the bucket alone are empty folders until they are fetched. All methods raise `OSError` if the
    storage does not answer.
    """

    def __init__(self, workdir: epath.Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aggnets_checkpoints_")
        self.root = Path(self._folder.name)
        self._workdir = workdir
        self._client = file_system(workdir)

    def close(self) -> None:
        """Delete the folder on this machine."""
        self._folder.cleanup()

    def look(self, series: str) -> None:
        """Make the folders of a series equal to the list of checkpoints in the bucket."""
        here, there = make_folder(self.root / series), self._committed(series)
        for folder in here.iterdir():
            if folder.name not in there:
                shutil.rmtree(folder)
        for step in there:
            (here / step).mkdir(exist_ok=True)

    def fetch(self, series: str, step: int) -> None:
        """Download a checkpoint, if it is not here."""
        here, there = (root / series / str(step) for root in (self.root, self._workdir))
        if any(here.iterdir()):
            return
        try:
            with storage(there):
                names = object_names(there)
                self._client.get([f"{there}/{n}" for n in names], [str(here / n) for n in names])
        except BaseException:  # a part of it would be taken for all
            shutil.rmtree(here)
            here.mkdir()
            raise

    def send(self, series: str) -> None:
        """Upload checkpoints that are not in the bucket, and delete those that are not here."""
        place = self._workdir / series
        here, there = self.root / series, self._committed(series)
        steps = {folder.name for folder in here.iterdir() if folder.name.isdecimal()}
        with storage(place):
            for step in sorted(steps - there, key=int):
                delete_checkpoint(place / step)  # what a killed process has left
                files = [file for file in (here / step).rglob("*") if file.is_file()]
                names = [file.relative_to(here).as_posix() for file in files]
                names = [name for name in names if name != f"{step}/{COMMITTED}"]
                self._client.put([str(here / n) for n in names], [f"{place}/{n}" for n in names])
                self._client.pipe_file(f"{place}/{step}/{COMMITTED}", b"")
            present = {name.partition("/")[0] for name in object_names(place)}
            for step in present - steps:
                delete_checkpoint(place / step)

    def _committed(self, series: str) -> set[str]:
        place = self._workdir / series
        with storage(place):
            pairs = (name.split("/") for name in object_names(place))
            return {step for step, *rest in pairs if rest == [COMMITTED] and step.isdecimal()}


def delete_checkpoint(place: AnyPath) -> None:
    """Delete a checkpoint so that a process that is killed meanwhile leaves none that looks whole.

    Raises:
      OSError: if it can't be renamed on this machine, or deleted in a bucket.
    """
    if not is_url(place):
        # Orbax deletes folders with such names when it opens the series, what is left here, too.
        doomed = place.rename(place.with_name(place.name + TMP_DIR_SUFFIX))
        shutil.rmtree(doomed, ignore_errors=True)
        return
    with storage(place):
        names = object_names(place)
        for some in ([n for n in names if n == COMMITTED], [n for n in names if n != COMMITTED]):
            if some:
                file_system(place).rm([f"{place}/{name}" for name in some])
