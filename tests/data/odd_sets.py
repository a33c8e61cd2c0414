"""TFDS sets that test what CIFAR and ImageNet do not have."""

import numpy as np
import tensorflow_datasets as tfds


class AggnetsWords(tfds.core.GeneratorBasedBuilder):
    """No images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
            ),
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "word", "label": 0}


class AggnetsGreyShapes(tfds.core.GeneratorBasedBuilder):
    """Grey PNGs of several sizes; the test split has no labels, as in competitions."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, _):
        return {
            "train": self._generate_examples(7, labelled=True),
            "test": self._generate_examples(3, labelled=False),
        }

    def _generate_examples(self, count, labelled):
        for k in range(count):
            image = np.full((20 + k, 30 - k, 1), 20 * k, np.uint8)
            yield k, {"image": image, "label": k % 2 if labelled else -1}
