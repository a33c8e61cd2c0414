"""The picture in the documentation is drawn by the code, and the page knows every field."""

import importlib.util

import numpy as np
import pytest

from tests import runs

PAGE = runs.ROOT / "docs" / "augmentation.md"


@pytest.fixture(scope="module")
def augmentation():
    spec = importlib.util.spec_from_file_location("augmentation", PAGE.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn(augmentation, tmp_path, monkeypatch):
    rows = {name: augmentation.ROWS[name] for name in ("policy: randaugment", "color_jitter: 0.4")}
    monkeypatch.setattr(augmentation, "ROWS", rows)
    augmentation.draw(tmp_path / "augmentation.png", side=16)
    assert (tmp_path / "augmentation.png").stat().st_size > 10_000
    assert "python docs/augmentation.py" in PAGE.read_text()


def test_examples_are_of_one_photograph_and_differ(augmentation):
    images = augmentation.augmented({"cutout": 0.5}, side=16)
    photograph = augmentation.photograph("china.jpg", 16) / 255
    shown = np.abs(images - photograph).max(-1) < 1e-5
    assert images.shape == (8, 16, 16, 3)
    assert shown.any(0).all()  # each pixel in one of them
    assert (~shown).any((1, 2)).all()  # and none of them whole
    assert len({mask.tobytes() for mask in shown}) > 4


def test_the_host_cuts_different_parts(augmentation):
    images = augmentation.cropped(side=16)
    assert images.shape == (8, 16, 16, 3)
    assert len({image.tobytes() for image in images}) == 8
    assert 0 <= images.min() < images.max() <= 1


def test_every_field_is_on_the_page(augmentation):
    page = PAGE.read_text()
    fields = {field for changes in augmentation.ROWS.values() for field in changes}
    assert {"crop_padding", "erasing", "cutmix", "mix_ratio_per"} < fields
    assert [field for field in sorted(fields | {"policy_args"}) if f"`{field}`" not in page] == []
