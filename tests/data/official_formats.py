"""Small data sets in the official file formats, prepared by TFDS's own builders.

Each image shows its class: a colour per class, plus noise. What the official file calls the label
is what a network can learn.
"""

import io
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aggnets_jax.data.tf_runtime import import_tensorflow

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"


def prepare_small_cifar10(
    data_dir, num_train=100, num_test=50, num_shards=None, file_format="tfrecord"
):
    """Prepare cifar10 in `data_dir` from a tarball in the official binary layout.

    Returns:
      {"train" | "test": (images uint8 [N, 32, 32, 3], labels int64 [N])}, in the order of the
      official files; TFDS shuffles when it writes.
    """
    rng = np.random.default_rng(10)
    train, test = (_cifar_images(rng, n, 10) for n in (num_train, num_test))
    files = {
        f"data_batch_{k + 1}.bin": _cifar_records(images, labels[:, None])
        for k, (images, labels) in enumerate(
            zip(*(np.array_split(array, 5) for array in train), strict=True)
        )
    }
    files["test_batch.bin"] = _cifar_records(test[0], test[1][:, None])
    files["batches.meta.txt"] = (
        b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
    )
    _prepare_cifar(
        "cifar10",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        files,
        data_dir,
        num_shards,
        file_format,
    )
    return {"train": train, "test": test}


def prepare_small_cifar100(data_dir, num_train=200, num_test=100, num_shards=None):
    """Prepare cifar100 in `data_dir` as `prepare_small_cifar10` does cifar10.

    The coarse label in the file is the fine one divided by five, rounded down.
    """
    rng = np.random.default_rng(100)
    train, test = (_cifar_images(rng, n, 100) for n in (num_train, num_test))
    files = {
        f"{split}.bin": _cifar_records(images, np.stack([labels // 5, labels], axis=1))
        for split, (images, labels) in {"train": train, "test": test}.items()
    }
    for kind, count in (("coarse", 20), ("fine", 100)):
        lines = [f"{kind}_{k:02d}" for k in range(count)]
        files[f"{kind}_label_names.txt"] = "\n".join([*lines, ""]).encode()
    _prepare_cifar(
        "cifar100", "cifar-100-binary.tar.gz", "cifar-100-binary", files, data_dir, num_shards
    )
    return {"train": train, "test": test}


def prepare_small_imagenet(data_dir, num_train=24, num_validation=10, classes=3, num_shards=None):
    """Prepare imagenet2012 in `data_dir` from the two official tars, made small.

    Returns:
      {"train" | "validation": {file name: (JPEG bytes, label)}}.
    """
    import_tensorflow()
    official = Path(data_dir) / "official_imagenet"
    official.mkdir(parents=True)
    rng = np.random.default_rng(2012)
    builder = tfds.builder("imagenet2012", data_dir=data_dir)
    label_of = builder.info.features["label"]
    train, synsets = {}, {}
    for k in range(num_train):
        synset = label_of.int2str(k % classes)
        file = f"{synset}_{k}.JPEG"
        train[file] = (_jpeg(rng, k % classes), k % classes)
        synsets.setdefault(synset, {})[file] = train[file][0]
    _write_tar(
        official / "ILSVRC2012_img_train.tar",
        {f"{synset}.tar": _tar_bytes(files) for synset, files in synsets.items()},
    )
    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    validation = {}
    for k, synset in enumerate(labels.read_text().split()[:num_validation]):
        label = label_of.str2int(synset)
        validation[f"ILSVRC2012_val_{k + 1:08d}.JPEG"] = (_jpeg(rng, label), label)
    _write_tar(
        official / "ILSVRC2012_img_val.tar", {name: data for name, (data, _) in validation.items()}
    )
    _download_and_prepare(builder, official, num_shards)
    return {"train": train, "validation": validation}


def prepare_small_imagenet_real(data_dir, real_labels):
    """Prepare imagenet2012_real in `data_dir`, whose images have these lists of labels.

    Returns:
      {file name: label of ImageNet}.
    """
    import_tensorflow()
    official = Path(data_dir) / "official_imagenet_real"
    official.mkdir(parents=True)
    rng = np.random.default_rng(2020)
    builder = tfds.builder("imagenet2012_real", data_dir=data_dir)
    label_of = builder.info.features["original_label"]
    synsets = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    names = [f"ILSVRC2012_val_{k + 1:08d}.JPEG" for k in range(len(real_labels))]
    labels = {name: label_of.str2int(s) for name, s in zip(names, synsets, strict=False)}
    _write_tar(official / "ILSVRC2012_img_val.tar", {n: _jpeg(rng, k) for n, k in labels.items()})
    real = dict(zip(names, real_labels, strict=True))  # in the place of a download
    with mock.patch.object(type(builder), "_get_real_labels", lambda *_: real):
        _download_and_prepare(builder, official, None)
    return labels


def prepare_small_imagenet_part(name, data_dir, synsets):
    """Prepare imagenet_a or imagenet_r in `data_dir` from one image of each synset."""
    import_tensorflow()
    official = Path(data_dir) / f"official_{name}"
    rng = np.random.default_rng(len(synsets))
    for synset in synsets:
        folder = official / name.replace("_", "-") / synset
        folder.mkdir(parents=True)
        (folder / f"{synset}_0.jpg").write_bytes(_jpeg(rng, len(synset)))
    builder = tfds.builder(name, data_dir=data_dir)
    with mock.patch.object(
        tfds.download.DownloadManager, "download_and_extract", lambda *_: str(official)
    ):
        _download_and_prepare(builder, official, None)


def _cifar_images(rng, count, classes):
    labels = np.arange(count) % classes
    return _class_images(rng, labels, classes, (32, 32)), labels


def _class_images(rng, labels, classes, size):
    """Return noisy images uint8 [N, *size, 3] whose colour is that of their class."""
    turn = 2 * np.pi * labels[:, None] / classes + np.array([0, 2, 4]) * np.pi / 3
    colours = 128 + 70 * np.cos(turn)
    noise = rng.normal(0, 25, (len(labels), *size, 3))
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)


def _cifar_records(images, labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8), planes], axis=1).tobytes()


def _prepare_cifar(name, tarball, folder, files, data_dir, num_shards, file_format="tfrecord"):
    import_tensorflow()
    official = Path(data_dir) / f"official_{name}"
    official.mkdir(parents=True)
    path = official / tarball
    _write_tar(path, {f"{folder}/{file}": data for file, data in files.items()}, mode="w:gz")
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    # The builder checks the tarball against the registered checksum: let it expect this one.
    infos = {CIFAR_URL + tarball: tfds.download.checksums.compute_url_info(path)}
    with mock.patch.object(type(builder), "url_infos", infos):
        _download_and_prepare(builder, official, num_shards)


def _download_and_prepare(builder, official, num_shards):
    tfds.disable_progress_bar()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=official, try_download_gcs=False, num_shards=num_shards
        )
    )


def _jpeg(rng, label):
    """Return a JPEG of random size: smooth, so that decoders and resizers agree on it."""
    height, width = rng.integers(60, 120, 2)
    coarse = _class_images(rng, np.array([label % 10]), 10, (6, 6))[0]
    image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def _write_tar(path, files, mode="w"):
    path.write_bytes(_tar_bytes(files, mode))


def _tar_bytes(files, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()
