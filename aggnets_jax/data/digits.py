"""The handwritten digits of scikit-learn as a TFDS data set, without a download."""

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0
TEST_FRACTION = 0.2
FEW = 10
LARGEST_VALUE = 16


def digits_split() -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed, stratified split: places in `load_digits`, int64 [1437] and [360]."""
    return stratified_split(load_digits().target)


def stratified_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places in `labels` for training and, a fifth of each class, for the test, int64."""
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=labels
    )
    return train, test


def first_of_each_class(numbers: np.ndarray, count: int, labels: np.ndarray) -> np.ndarray:
    """Return the first `count` of each class among places in `labels`, in their order."""
    first = [np.flatnonzero(labels[numbers] == k)[:count] for k in range(10)]
    return numbers[np.sort(np.concatenate(first))]


class AggnetsDigits(tfds.core.GeneratorBasedBuilder):
    """The 1,797 grey 8x8 digits of `sklearn.datasets.load_digits`."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads a plain class attribute)
        "1.0.0": "First release.",
        "1.1.0": "A split with ten training images of each class.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "The 1,797 handwritten digits that ship with scikit-learn (the test part of the "
                "UCI Optical Recognition of Handwritten Digits set): 8x8 grey images, values "
                "0..16 scaled to 0..255, in a fixed split, stratified by class, of 1,437 training "
                "and 360 test images."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=(
                "@misc{alpaydin1998optical,\n"
                "  author = {Alpaydin, E. and Kaynak, C.},\n"
                "  title = {Optical Recognition of Handwritten Digits},\n"
                "  howpublished = {UCI Machine Learning Repository},\n"
                "  year = {1998},\n"
                "  doi = {10.24432/C50P49}\n"
                "}"
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # the images come with scikit-learn
        train, test = digits_split()
        few = first_of_each_class(train, FEW, load_digits().target)
        return {
            "train": self._generate_examples(train),
            f"train_{FEW}_per_class": self._generate_examples(few),
            "test": self._generate_examples(test),
        }

    def _generate_examples(self, numbers: np.ndarray):  # noqa: ANN202 (TFDS's own signature)
        digits = load_digits()
        images = np.round(digits.images * (255 / LARGEST_VALUE)).astype(np.uint8)[..., None]
        for number in numbers:
            yield int(number), {"image": images[number], "label": int(digits.target[number])}
