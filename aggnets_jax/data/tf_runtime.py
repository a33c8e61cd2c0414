"""TensorFlow, imported when it is first needed and kept off the accelerators."""

import contextlib
import functools
import logging
import os
from types import ModuleType


@functools.cache
def import_tensorflow() -> ModuleType:
    """Return the tensorflow module, which sees no GPU and no TPU from then on.

    TensorFlow only reads and decodes; on an accelerator it would take the memory that JAX needs.
    """
    # Hide TensorFlow's notes: it also raises what it logs about a damaged image. JAX, imported
    # before, has set the level to 1, unless the user has chosen another. oneDNN, which announces
    # itself at any level, does not speed up input pipelines.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)  # TFDS calls functions that TensorFlow deprecated
    for kind in ("GPU", "TPU"):
        # RuntimeError: the caller has used TensorFlow before, so its devices are fixed.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf
