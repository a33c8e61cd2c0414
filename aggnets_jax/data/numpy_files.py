"""Arrays in NumPy's format, from files that may be damaged."""

import warnings
from typing import IO

import numpy as np


def read_array(file: IO[bytes]) -> np.ndarray:
    """Read the array of a file that holds nothing else, without unpickling.

    All of the file is read, so that an archive compares its checksum.

    Raises:
      Exception: any, for a damaged file: of zlib, Python's parser, the archive, the memory, ...
    """
    with warnings.catch_warnings(action="ignore"):  # the parser also warns of a damaged header
        array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("an array is shorter than its file")
    return array
