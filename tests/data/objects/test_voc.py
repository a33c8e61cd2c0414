import io
import json
import types

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aggnets_jax.data import catalog
from aggnets_jax.data.objects import read_annotations
from aggnets_jax.data.objects.voc import write_voc
from aggnets_jax.data.prepare import prepare
from tests.patterns import one_line_error

# Image, and VOC's own numbers (xmin, ymin, xmax, ymax), which count pixels from 1 to the last.
OBJECTS = {
    "train": [("000005", [("dog", (1, 2, 40, 30), False), ("cat", (5, 5, 9, 9), True)])],
    "validation": [("000007", [("cat", (3, 1, 3, 30), False)])],
    "test": [("000001", [])],
}


def jpeg(number):
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (number, 0, 0)).save(data, "JPEG")
    return data.getvalue()


with tfds.core.registered.skip_registration():

    class Voc(tfds.core.GeneratorBasedBuilder):
        """The features of TFDS's builder, which would download."""

        VERSION = tfds.core.Version("4.0.0")

        def _info(self):
            features = tfds.features
            objects = {
                "label": features.ClassLabel(names=["cat", "dog"]),
                "bbox": features.BBoxFeature(),
                "is_difficult": np.bool_,
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "image": features.Image(),
                        "image/filename": features.Text(),
                        "objects": features.Sequence(objects),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in OBJECTS}

        def _generate_examples(self, split):
            for name, objects in OBJECTS[split]:
                boxes = [np.array(b) / [40, 30, 40, 30] for _, b, _ in objects]
                found = [
                    {
                        "label": label,
                        "bbox": tfds.features.BBox(box[1], box[0], box[3], box[2]),
                        "is_difficult": difficult,
                    }
                    for (label, _, difficult), box in zip(objects, boxes, strict=True)
                ]
                image = io.BytesIO(jpeg(int(name)))
                yield name, {"image": image, "image/filename": f"{name}.jpg", "objects": found}


def test_voc_becomes_a_folder_in_cocos_format(tmp_path):
    builder = Voc(data_dir=tmp_path)
    builder.download_and_prepare()
    folder = write_voc(builder)
    train = json.loads((folder / "annotations" / "instances_train.json").read_text())
    assert train["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert train["images"] == [{"id": 5, "file_name": "000005.jpg", "height": 30, "width": 40}]
    boxes = [(a["category_id"], a["bbox"], a["difficult"]) for a in train["annotations"]]
    assert boxes == [(2, [0, 1, 40, 29], 0), (1, [4, 4, 5, 5], 1)]
    assert (folder / "images" / "000005.jpg").read_bytes() == jpeg(5)
    both = read_annotations(str(folder), "trainval", masks=False, skip=False)
    assert [image["id"] for image in both.images] == [5, 7]
    assert [len(objects) for objects in both.objects] == [2, 1]
    assert [len(both.trained(index)) for index in (0, 1)] == [1, 1]  # not the difficult one
    assert both.path(1).exists()
    assert write_voc(builder) == folder


def test_a_damaged_record_is_one_line_and_leaves_nothing(tmp_path):
    builder = Voc(data_dir=tmp_path)
    builder.download_and_prepare()
    (file,) = builder.data_path.glob("*-train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    message = one_line_error(write_voc, builder)
    assert message.startswith(f"{builder.data_path} can't be read: ")
    assert [each.name for each in builder.data_path.parent.iterdir()] == [builder.data_path.name]


def test_in_a_bucket_it_is_refused_before_anything_is_fetched(monkeypatch):
    builder = types.SimpleNamespace(name="voc", data_path="gs://bucket/voc/2007/4.0.0")
    monkeypatch.setattr(catalog, "find_builder", lambda *_: builder)
    for call in (lambda: prepare("voc/2007", "gs://bucket", None), lambda: write_voc(builder)):
        assert "is in a bucket: give --data_dir" in one_line_error(call)
