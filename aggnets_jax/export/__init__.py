"""Trained classifiers as programs that run without this package."""

FORMATS = ("stablehlo", "savedmodel", "onnx", "tflite")
"""Names of `formats.FUNCTIONS`, for --help without importing JAX."""
