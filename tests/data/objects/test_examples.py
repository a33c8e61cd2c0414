import dataclasses
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

pytest.importorskip("pycocotools")

from aggnets_jax.data.image_files import read_picture, upright_size
from aggnets_jax.data.objects import Annotated, read_annotations
from aggnets_jax.data.objects.examples import (
    Form,
    flipped,
    load_image,
    load_objects,
    no_image,
)
from aggnets_jax.data.objects.scenes import run_lengths
from aggnets_jax.data.objects.segmentations import decode_mask, mask_problem
from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION
from aggnets_jax.errors import UserError

FORM = Form(CENTER, 64, 64, 32, None, True, None)
TINY_FORM = dataclasses.replace(FORM, long=3, short=2)
SIZE = (64, 64)


@pytest.fixture(scope="module")
def data(scenes_dir):
    return read_annotations(scenes_dir, "train", masks=True, skip=False)


@pytest.fixture(scope="module")
def tests(scenes_dir):
    return read_annotations(scenes_dir, "test", masks=True, skip=False)


def load(data, index, form, size=SIZE):
    example = load_image(data, index, form, size)
    return example | load_objects(data, index, form, size, 4)


def test_an_image_of_the_right_size_is_not_changed(data):
    example = load(data, 0, FORM)
    np.testing.assert_array_equal(example["image"], np.asarray(Image.open(data.path(0))))
    objects = data.trained(0)
    assert example["valid"].tolist() == [True] * len(objects) + [False] * (4 - len(objects))
    for each, box, label, mask in zip(
        objects, example["boxes"], example["label"], example["masks"], strict=False
    ):
        x, y, w, h = each["bbox"]
        assert box.tolist() == [x, y, x + w, y + h]
        assert each["category_id"] == 3 * label + 1
        assert mask.sum() == each["area"]
        assert mask[y : y + h, x : x + w].sum() == each["area"]


@pytest.mark.parametrize(
    ("conventions", "box"),
    [
        # x, y, w, h = 10, 20, 8, 4 at twice the size; mmdetection 1.x has the last pixel.
        (CENTER, [20, 40, 36, 48]),
        (TORCHVISION, [20, 40, 36, 48]),
        (LEGACY, [20, 40, 34, 46]),
    ],
)
def test_boxes_grow_with_their_image(data, conventions, box):
    objects = [{**data.trained(0)[0], "bbox": [10, 20, 8, 4]}]
    changed = data._replace(objects=(tuple(objects), *data.objects[1:]))
    form = dataclasses.replace(FORM, conventions=conventions, long=128, short=128)
    assert form.resized(data.images[0]) == (128, 128)
    example = load(changed, 0, form, (128, 128))
    assert example["boxes"][0].tolist() == box
    assert example["factors"].tolist() == [2, 2]
    assert example["masks"].shape == (4, 128, 128)
    grown = data.trained(0)[0]["area"] * 4
    assert example["masks"][0].sum() == grown


def test_a_box_is_cut_at_the_border_of_its_image(data):
    objects = [{**data.trained(0)[0], "bbox": [-5, 50, 20, 40]}]
    changed = data._replace(objects=(tuple(objects), *data.objects[1:]))
    assert load(changed, 0, FORM)["boxes"][0].tolist() == [0, 50, 15, 64]


def test_an_image_of_another_size_is_padded_with_zeros_at_the_right_and_bottom(tests):
    index = next(i for i, image in enumerate(tests.images) if image["height"] != 64)
    assert (tests.images[index]["height"], tests.images[index]["width"]) == (48, 56)
    example = load(tests, index, FORM)
    assert example["size"].tolist() == [55, 64]  # 64 / 56 is the smaller factor
    assert example["original"].tolist() == [48, 56]
    assert (example["image"][55:] == 0).all()
    assert example["image"][:55].min() > 0
    assert FORM.padded(tests.images[index]) == (64, 64)


@pytest.mark.parametrize("conventions", [CENTER, LEGACY])
@pytest.mark.parametrize("mask_side", [None, 28])
def test_a_mirrored_example_is_mirrored_in_all_its_parts(tests, conventions, mask_side):
    form = dataclasses.replace(FORM, conventions=conventions, mask_side=mask_side)
    for index in range(4):
        example = load(tests, index, form)
        mirrored = flipped(example, form)
        height, width = example["size"]
        np.testing.assert_array_equal(
            mirrored["image"][:height, :width], example["image"][:height, :width][:, ::-1]
        )
        if mask_side is None:
            for box, mask in zip(mirrored["boxes"], mirrored["masks"], strict=True):
                if mask.any():
                    columns = np.flatnonzero(mask.any(axis=0))
                    x2 = columns[-1] + (0 if conventions is LEGACY else 1)
                    assert abs(box[0] - columns[0]) <= 1
                    assert abs(box[2] - x2) <= 1
        again = flipped(mirrored, form)
        for name, value in example.items():
            np.testing.assert_allclose(again[name], value, atol=1e-5)


def test_whole_masks_are_resized_by_nearest_pixels(data):
    """OpenCV and PyTorch take the pixel floor(i * old / new)."""
    form = dataclasses.replace(FORM, long=48, short=48)
    small, whole = (load(data, 0, each)["masks"] for each in (form, FORM))
    (height, width), sides = form.resized(data.images[0]), FORM.resized(data.images[0])
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), sides, strict=True))
    np.testing.assert_array_equal(small[:, :height, :width], whole[:, rows][:, :, columns])
    assert small.any()


def test_masks_can_be_cropped_to_their_boxes(data):
    whole = load(data, 0, FORM)
    x1, y1, x2, y2 = whole["boxes"][0].astype(int)
    side = 5 * max(x2 - x1, y2 - y1)
    crop = load(data, 0, dataclasses.replace(FORM, mask_side=side))["masks"][0]
    assert crop.shape == (side, side)
    centres = (np.arange(side) + 0.5) / side
    rows = np.floor(y1 + centres * (y2 - y1)).astype(int)
    columns = np.floor(x1 + centres * (x2 - x1)).astype(int)
    np.testing.assert_array_equal(crop, whole["masks"][0][rows][:, columns])


def test_polygons_and_run_lengths_of_both_forms_are_the_same_mask():
    import pycocotools.mask

    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 1
    polygon = [[2.0, 1.0, 7.0, 1.0, 7.0, 4.0, 2.0, 4.0]]
    encoded = pycocotools.mask.encode(np.asfortranarray(mask))
    packed = {"size": [6, 8], "counts": encoded["counts"].decode()}
    for each in (polygon, run_lengths(mask.astype(bool)), packed):
        assert mask_problem(each, 6, 8) is None
        np.testing.assert_array_equal(decode_mask(each, 6, 8), mask)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_compressed_counts_are_read_as_pycocotools_reads_them(seed):
    import pycocotools.mask

    random = np.random.default_rng(seed)
    mask = np.asfortranarray(random.random((50, 70)) < random.random(), np.uint8)
    counts = pycocotools.mask.encode(mask)["counts"].decode()
    assert mask_problem({"size": [50, 70], "counts": counts}, 50, 70) is None
    wrong = {"size": [50, 70], "counts": counts + "1"}
    assert mask_problem(wrong, 50, 70) == "has a mask whose counts don't add up to its image"


def test_the_smallest_bucket_that_fits_is_chosen():
    form = Form(CENTER, 1333, 800, 32, None, False, 112)
    assert form.training_sizes == ((800, 1344), (1344, 800))
    assert form.bucket({"height": 480, "width": 640, "id": 1}) == 0
    assert form.bucket({"height": 640, "width": 480, "id": 1}) == 1
    assert form.padded({"height": 480, "width": 640}) == (800, 1088)
    buckets = ((800, 1344), (800, 1088), (1344, 800))
    form = dataclasses.replace(form, buckets=buckets)
    assert form.bucket({"height": 480, "width": 640, "id": 1}) == 1
    form = dataclasses.replace(form, buckets=buckets[1:])
    with pytest.raises(UserError, match="image 7 is 800x1333 pixels when resized, more than every"):
        form.bucket({"height": 300, "width": 500, "id": 7})


def test_a_damaged_image_and_one_of_another_size_are_named(data, tmp_path):
    moved = data._replace(folder=type(data.folder)(tmp_path))
    (tmp_path / "000001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"000001\.png is damaged"):
        load_image(moved, 0, FORM, SIZE)
    Image.new("RGB", (10, 20)).save(tmp_path / "000001.png")
    with pytest.raises(UserError, match=r"has 10x20 pixels, and .*json says 64x64"):
        load_image(moved, 0, FORM, SIZE)
    assert no_image(SIZE)["size"].tolist() == [0, 0]


def one_file(folder, name, height, width):
    """Return a split of one image of the stated size."""
    image = {"id": 1, "file_name": name, "height": height, "width": width}
    return Annotated(folder / "some.json", folder, (image,), ((),), {1: "a"}, 0)


def turned(orientation, form="PNG"):
    """Return a file of 3x2 pixels that is stored turned, and its pixels as stored and upright."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, exif=exif)
    return file.getvalue(), pixels, np.asarray(ImageOps.exif_transpose(Image.open(file)))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_objects_were_annotated(tmp_path, orientation, form):
    """PIL turns a TIFF by itself."""
    encoded, stored, upright = turned(orientation, form)
    (tmp_path / "a.png").write_bytes(encoded)
    # The size tells which of the two was annotated; where it can't, the upright one was.
    for height, width in {upright.shape[:2], stored.shape[:2]}:
        expected = upright if upright.shape[:2] == (height, width) else stored
        data = one_file(tmp_path, "a.png", height, width)
        example = load_image(data, 0, TINY_FORM, SIZE)
        np.testing.assert_array_equal(example["image"][:height, :width], expected)
    assert np.array_equal(read_picture(encoded), upright)
    with Image.open(io.BytesIO(encoded)) as image:
        assert upright_size(image) == upright.shape[:2]


def test_exif_data_that_pil_can_not_write_again_are_no_damage():
    """A fraction of -1, which its type has no sign for."""
    tags = [
        struct.pack(">HHLHH", ExifTags.Base.Orientation, 3, 1, 6, 0),
        struct.pack(">HHLL", ExifTags.Base.XResolution, 10, 1, 38),  # at that place
    ]
    content = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + b"".join(tags) + struct.pack(">lll", 0, -1, 1)
    file = io.BytesIO()
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(file, "PNG", exif=content)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(file))
    assert np.array_equal(read_picture(file.getvalue()), np.rot90(pixels, -1))


def test_a_nonsense_orientation_is_upright():
    encoded, stored, _ = turned(9)
    assert np.array_equal(read_picture(encoded), stored)


def test_sixteen_bits_are_divided_not_clipped(tmp_path):
    pixels = np.array([[0, 255, 256], [30000, 65279, 65535]], np.uint16)
    for form in ("PNG", "TIFF"):
        Image.fromarray(pixels).save(tmp_path / "a.png", form)
        example = load_image(one_file(tmp_path, "a.png", 2, 3), 0, TINY_FORM, SIZE)
        assert example["image"][:2, :3, 1].tolist() == [[0, 0, 1], [117, 254, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_whose_0_is_white(kind):
    file = io.BytesIO()
    pixels = np.array([[0, 100, 255]], kind) * kind(257 if kind is np.uint16 else 1)
    Image.fromarray(pixels).save(file, "TIFF")
    photometric = struct.pack("<HHLHH", 262, 3, 1, 1, 0)
    content = file.getvalue().replace(photometric, struct.pack("<HHLHH", 262, 3, 1, 0, 0))
    assert content != file.getvalue()
    assert read_picture(content)[..., 0].tolist() == [[255, 155, 0]]


def test_a_tiff_of_twelve_bits():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0]], np.uint16)).save(file, "TIFF")
    content = file.getvalue()
    bits = struct.pack("<HHLHH", 258, 3, 1, 16, 0)
    assert bits in content
    content = content.replace(bits, struct.pack("<HHLHH", 258, 3, 1, 12, 0))
    start = Image.open(file).tag_v2[273][0]  # of the pixels
    content = content[:start] + bytes([0x80, 0x0F, 0xFF, 0]) + content[start + 4 :]  # 800 and FFF
    assert read_picture(content)[..., 0].tolist() == [[128, 255]]
