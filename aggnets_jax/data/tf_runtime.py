"""TensorFlow, imported when it is first needed and kept away from the accelerators."""

import contextlib
import functools
import logging
import os
from types import ModuleType


@functools.cache
def import_tensorflow() -> ModuleType:
    """Returns the tensorflow module, which from here on sees no GPU and no TPU.

    TensorFlow only reads and decodes here; left alone it would take the memory that JAX needs.
    """
    # No notes between our own lines: what TensorFlow says of a damaged image, it raises as well.
    # JAX, imported before, has set the level to 1, unless a user has chosen another. oneDNN, which
    # announces itself whatever the level, speeds up nothing that input pipelines do.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)  # TFDS calls functions that TensorFlow deprecated
    for kind in ("GPU", "TPU"):
        # RuntimeError: a caller has already used TensorFlow, so its devices are settled.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf
