import os

import pytest
import torch

from robust_transfer.data.registry import DATASETS, load, one_of_each

DATA_DIR = os.environ.get("DATA_DIR", "")


def test_ten_photographs_are_at_hand_without_a_download():
    images = one_of_each("cifar10")
    assert images.pixels.shape == (10, 3, 32, 32)
    assert images.labels.tolist() == list(range(10))
    assert len(images.pixels.flatten(1).unique(dim=0)) == 10


@pytest.mark.skipif(not DATA_DIR, reason="no DATA_DIR with CIFAR-10")
def test_they_are_the_first_of_each_class_in_the_test_split():
    split, images = load("cifar10", "test", 200, DATA_DIR), one_of_each("cifar10")
    for pixels, label in zip(images.pixels, images.labels, strict=True):
        assert torch.equal(pixels, split.pixels[split.labels == label][0])


@pytest.mark.parametrize("name", ["glyphs10", "glyphs20"])
def test_of_drawn_images_it_is_the_first_of_each_class_too(name):
    split, images = load(name, "test", 400), one_of_each(name)
    assert images.labels.tolist() == list(range(DATASETS[name].classes))
    for pixels, label in zip(images.pixels, images.labels, strict=True):
        assert torch.equal(pixels, split.pixels[split.labels == label][0])


def test_where_there_are_no_images_that_is_said():
    with pytest.raises(FileNotFoundError, match="data_dir = '': cifar100 needs the folder"):
        one_of_each("cifar100")
