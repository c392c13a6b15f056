"""Images keep their labels, however they are divided, augmented and put into batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from robust_transfer.data.images import Images, augment, divide, training_batches
from robust_transfer.data.registry import DATASETS, load, register


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mnist", "train", 5), ValueError, "dataset = 'mnist': allowed are .*cifar10"),
        (("cifar10", "dev", 5), ValueError, "split = 'dev': allowed are test, train"),
        (("cifar10", "train", 50_001), ValueError, "cifar10 train has 1 to 50000 images"),
        (("cifar10", "test", 10_001), ValueError, "cifar10 test has 1 to 10000 images"),
        (("cifar10", "test", 0), ValueError, "count = 0"),
        (("cifar10", "train", 5), FileNotFoundError, "data_dir = ''"),
        (("glyphs10", "train", 5, "", -1), ValueError, "image_size = -1: allowed are whole"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


def test_a_data_set_registered_anew_is_loaded_anew(monkeypatch):
    monkeypatch.setitem(DATASETS, "glyphs10", DATASETS["glyphs10"])  # put back in the end
    assert load("glyphs10", "test", 5).pixels.shape[2:] == (16, 16)
    register(replace(DATASETS["glyphs10"], side=8))
    assert load("glyphs10", "test", 5).pixels.shape[2:] == (8, 8)
    load.cache_clear()


def test_images_are_resized_on_request():
    own = load("glyphs10", "train", 20)
    assert load("glyphs10", "train", 20, image_size=16).fingerprint == own.fingerprint
    small = load("glyphs10", "train", 20, image_size=8)
    large = load("glyphs10", "train", 20, image_size=48)
    assert small.pixels.shape == (20, 3, 8, 8) and large.pixels.shape == (20, 3, 48, 48)
    assert torch.equal(small.labels, own.labels) and torch.equal(large.labels, own.labels)
    again = large.pixels.unflatten(2, (16, 3)).unflatten(4, (16, 3)).float().mean((3, 5))
    assert (again - own.pixels).abs().mean() < 2


def test_the_first_images_and_a_single_one_are_those_of_the_set():
    images = load("glyphs10", "train", 20)
    first = images.first(7)
    assert first.fingerprint == load("glyphs10", "train", 7).fingerprint
    pixels, labels = images.batch(13)
    torch.testing.assert_close(pixels, images.pixels[13:14].float() / 255)
    assert labels.tolist() == [images.labels[13].item()]


def test_the_fingerprint_stands_for_pixels_and_labels():
    images = load("glyphs10", "train", 20)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    assert Images.of(pixels, labels).fingerprint == images.fingerprint
    pixels[7, 1, 3, 3] += 1
    labels[7] += 1
    changed = [Images.of(pixels, images.labels), Images.of(images.pixels, labels)]
    assert len({images.fingerprint, *(other.fingerprint for other in changed)}) == 3


@pytest.mark.parametrize(("count", "train_size", "seed"), [(50_000, 47_500, 0), (100, 60, 3)])
def test_the_split_is_that_of_numpys_legacy_generator(count, train_size, seed):
    images = Images.of(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.arange(count))
    training, validation = divide(images, train_size, seed)
    shuffled = np.random.RandomState(seed).permutation(count)
    assert training.labels.tolist() == shuffled[:train_size].tolist()
    assert validation.labels.tolist() == sorted(shuffled[train_size:])


def test_the_split_keeps_pixels_with_their_labels():
    images = load("glyphs10", "train", 40)
    wanted = dict(zip(map(bytes, images.pixels.numpy()), images.labels.tolist(), strict=True))
    for part in divide(images, 30, 0):
        for pixels, label in zip(part.pixels.numpy(), part.labels.tolist(), strict=True):
            assert wanted[bytes(pixels)] == label


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (16, 2), (64, 8)])
def test_augmentation_shifts_over_zeros_and_flips(size, pad):
    image = torch.randint(1, 256, (3, size, size), dtype=torch.uint8)
    padded = torch.zeros(3, size + 2 * pad, size + 2 * pad, dtype=torch.uint8)
    padded[:, pad:-pad, pad:-pad] = image
    crops = [
        padded[:, y : y + size, x : x + size]
        for y in range(2 * pad + 1)
        for x in range(2 * pad + 1)
    ]
    allowed = {bytes(crop.contiguous().numpy()) for crop in crops}
    allowed |= {bytes(crop.flip(2).contiguous().numpy()) for crop in crops}
    many = augment(image.expand(10 * len(allowed), -1, -1, -1), Generator().manual_seed(0))
    assert {bytes(one.numpy()) for one in many.contiguous()} == allowed


def test_augmentation_is_decided_by_its_generator():
    pixels = load("glyphs10", "train", 20).pixels
    first, same, other = (augment(pixels, Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_batches_are_the_images_in_order_between_0_and_1():
    images = load("glyphs10", "train", 25)
    pixels, labels = zip(*images.batches(10), strict=True)
    assert [len(part) for part in labels] == [10, 10, 5]
    torch.testing.assert_close(torch.cat(pixels), images.pixels.float() / 255)
    assert torch.equal(torch.cat(labels), images.labels)


@pytest.mark.parametrize(("count", "seen"), [(24, 24), (21, 20), (22, 22)])
def test_an_epoch_shows_every_image_once_but_no_batch_of_one(count, seen):
    labels = torch.arange(count)
    images = Images.of(torch.full((count, 3, 8, 8), 255, dtype=torch.uint8), labels)
    epochs = [
        torch.cat([labels for _, labels in training_batches(images, 10, generator)]).tolist()
        for generator in (Generator().manual_seed(0), Generator().manual_seed(1))
    ]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == seen
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


def test_an_image_may_have_several_labels():
    numbers = torch.arange(24)
    bits = (numbers[:, None] >> torch.arange(5) & 1).float()  # labels that spell the number
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    images = Images.of(pixels, bits)
    parts = [(part.pixels / 255, part.labels) for part in divide(images, 15, 0)]
    first, shuffled = images.first(5), training_batches(images, 7, Generator().manual_seed(0))
    parts += [(first.pixels / 255, first.labels), images.batch(9), *images.batches(10), *shuffled]
    for shown, labels in parts:
        assert labels.dtype == torch.float32
        spelled = labels @ 2.0 ** torch.arange(5)
        torch.testing.assert_close(shown[:, 0, 4, 4] * 255, spelled)
    assert [len(labels) for _, labels in parts] == [15, 9, 5, 1, 10, 10, 4, 7, 7, 7, 3]
    assert Images.of(pixels, 1 - bits).fingerprint != images.fingerprint


def test_names_and_kinds_of_labels_are_known_before_any_image():
    classes = {name: dataset.classes for name, dataset in DATASETS.items()}
    assert classes["imagenet_subset"] == classes["tiny_imagenet100"] == 100
    assert classes["chest_xray8"] == 2 and classes["chestxray14"] == 14
    multi_label = [name for name, dataset in DATASETS.items() if dataset.multi_label]
    assert multi_label == ["chestxray14"]
