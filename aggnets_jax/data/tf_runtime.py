"""TensorFlow, imported when it is first needed and kept away from the accelerators."""

import contextlib
import functools
import os
from types import ModuleType


@functools.cache
def import_tensorflow() -> ModuleType:
    """Returns the tensorflow module, which from here on sees no GPU and no TPU.

    TensorFlow only reads and decodes here; left alone it would take the memory that JAX needs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notes between our own lines
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # RuntimeError: a caller has already used TensorFlow, so its devices are settled.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf
