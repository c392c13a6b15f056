"""Images come whole from wherever they lie, or the error says what is wrong with them."""

import hashlib
import io
import pickle
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import torchvision
from PIL import Image
from torch import Generator

from robust_transfer import data, embedded


def drawn(count, seed=0):
    """Images uint8 ``(count, 32, 32, 3)``."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_shard(path, images, labels, label_column="label"):
    path.parent.mkdir(exist_ok=True)
    cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    parquet.write_table(pa.table({"img": cells, label_column: labels}), path)


@pytest.fixture
def folder(tmp_path):
    """A data_dir with CIFAR-10's training split in three shards of four images."""
    images = drawn(12)
    for k in range(3):
        part = slice(4 * k, 4 * k + 4)
        shard = tmp_path / "cifar10" / f"train-{k:05d}-of-00003.parquet"
        write_shard(shard, images[part], list(range(12))[part])
    return SimpleNamespace(path=tmp_path, shards=sorted(tmp_path.rglob("*.parquet")), images=images)


@pytest.mark.parametrize("count", [1, 4, 6, 12])
def test_parquet_shards_are_read_in_order(folder, count):
    loaded = data.load("cifar10", "train", count, str(folder.path))
    assert np.array_equal(loaded.pixels.numpy().transpose(0, 2, 3, 1), folder.images[:count])
    assert loaded.pixels.dtype == torch.uint8 and loaded.labels.dtype == torch.int64
    assert loaded.labels.tolist() == list(range(count))


def test_cifar100_is_labelled_by_its_fine_labels(tmp_path):
    shard = tmp_path / "cifar100" / "test-00000-of-00001.parquet"
    write_shard(shard, drawn(3), [99, 5, 42], "fine_label")
    assert data.load("cifar100", "test", 3, str(tmp_path)).labels.tolist() == [99, 5, 42]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_shard_is_named(folder, missing):
    folder.shards[missing].unlink()
    with pytest.raises(FileNotFoundError, match=f"shard {missing} of cifar10 train is missing"):
        data.load("cifar10", "train", 12, str(folder.path))


def test_a_missing_last_shard_is_noticed(folder):
    folder.shards[2].unlink()
    with pytest.raises(FileNotFoundError, match="12 train images wanted, 8 found"):
        data.load("cifar10", "train", 12, str(folder.path))


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-100])


def garble(shard):
    write_shard(shard, drawn(4), [0] * 4)
    table = parquet.read_table(shard)
    cells = [{"bytes": b"not a picture", "path": ""}] * 4
    parquet.write_table(table.set_column(0, "img", pa.array(cells)), shard)


def mislabel(shard):
    write_shard(shard, drawn(4), [0] * 4, "category")


@pytest.mark.parametrize("damage", [truncate, garble, mislabel])
def test_a_damaged_shard_is_named(folder, damage):
    damage(folder.shards[1])
    with pytest.raises(OSError, match=r"train-00001-of-00003.parquet: not a readable cifar10"):
        data.load("cifar10", "train", 12, str(folder.path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mnist", "train", 5), ValueError, "dataset = 'mnist': allowed are cifar10"),
        (("cifar10", "dev", 5), ValueError, "split = 'dev': allowed are test, train"),
        (("cifar10", "train", 50_001), ValueError, "cifar10 train has 1 to 50000 images"),
        (("cifar10", "test", 10_001), ValueError, "cifar10 test has 1 to 10000 images"),
        (("cifar10", "test", 0), ValueError, "count = 0"),
        (("cifar10", "train", 5), FileNotFoundError, "data_dir = ''"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        data.load(*arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_without_data_is_named_when_there_is_no_network(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    with pytest.raises(FileNotFoundError, match=f"data_dir = '{tmp_path}'.*no network"):
        data.load("cifar10", "train", 5, str(tmp_path))


def test_torchvisions_own_download_is_found(tmp_path, monkeypatch):
    images, listed = drawn(6), {}
    flat = images.transpose(0, 3, 1, 2).reshape(6, -1)
    contents = {
        "data_batch_1": {"data": flat, "labels": [3, 1, 4, 1, 5, 9]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in contents.items():
        pickled = pickle.dumps(content)
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickled)
        listed[name] = hashlib.md5(pickled).hexdigest()
    cifar10, meta = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR10.meta
    monkeypatch.setattr(cifar10, "train_list", [["data_batch_1", listed["data_batch_1"]]])
    monkeypatch.setattr(cifar10, "test_list", [])
    monkeypatch.setattr(cifar10, "meta", meta | {"md5": listed["batches.meta"]})
    loaded = data.load("cifar10", "train", 4, str(tmp_path))
    assert np.array_equal(loaded.pixels.numpy().transpose(0, 2, 3, 1), images[:4])
    assert loaded.labels.tolist() == [3, 1, 4, 1]


def test_embedded_tasks_need_no_folder():
    loaded, (pixels, labels) = (
        data.load("glyphs20", "test", 50),
        embedded.draw("glyphs20", "test", 50),
    )
    assert np.array_equal(loaded.pixels, pixels) and np.array_equal(loaded.labels, labels)


def test_the_first_images_and_a_single_one_are_those_of_the_set():
    images = data.load("glyphs10", "train", 20)
    first = images.first(7)
    assert first.fingerprint == data.load("glyphs10", "train", 7).fingerprint
    pixels, labels = images.batch(13)
    torch.testing.assert_close(pixels, images.pixels[13:14].float() / 255)
    assert labels.tolist() == [images.labels[13].item()]


def test_the_fingerprint_stands_for_pixels_and_labels():
    images = data.load("glyphs10", "train", 20)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    assert data.gather(pixels, labels).fingerprint == images.fingerprint
    pixels[7, 1, 3, 3] += 1
    labels[7] += 1
    changed = [data.gather(pixels, images.labels), data.gather(images.pixels, labels)]
    assert len({images.fingerprint, *(other.fingerprint for other in changed)}) == 3


@pytest.mark.parametrize(("count", "train_size", "seed"), [(50_000, 47_500, 0), (100, 60, 3)])
def test_the_split_is_that_of_numpys_legacy_generator(count, train_size, seed):
    images = data.gather(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.arange(count))
    training, validation = data.split(images, train_size, seed)
    shuffled = np.random.RandomState(seed).permutation(count)
    assert training.labels.tolist() == shuffled[:train_size].tolist()
    assert validation.labels.tolist() == sorted(shuffled[train_size:])


def test_the_split_keeps_pixels_with_their_labels():
    images = data.load("glyphs10", "train", 40)
    wanted = dict(zip(map(bytes, images.pixels.numpy()), images.labels.tolist(), strict=True))
    for part in data.split(images, 30, 0):
        for pixels, label in zip(part.pixels.numpy(), part.labels.tolist(), strict=True):
            assert wanted[bytes(pixels)] == label


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (16, 2)])
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
    many = data.augment(image.expand(3000, -1, -1, -1), Generator().manual_seed(0))
    assert {bytes(one.numpy()) for one in many.contiguous()} == allowed


def test_augmentation_is_decided_by_its_generator():
    pixels = data.load("glyphs10", "train", 20).pixels
    first, same, other = (data.augment(pixels, Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_batches_are_the_images_in_order_between_0_and_1():
    images = data.load("glyphs10", "train", 25)
    pixels, labels = zip(*images.batches(10), strict=True)
    assert [len(part) for part in labels] == [10, 10, 5]
    torch.testing.assert_close(torch.cat(pixels), images.pixels.float() / 255)
    assert torch.equal(torch.cat(labels), images.labels)


@pytest.mark.parametrize(("count", "seen"), [(24, 24), (21, 20), (22, 22)])
def test_an_epoch_shows_every_image_once_but_no_batch_of_one(count, seen):
    labels = torch.arange(count)
    images = data.gather(torch.full((count, 3, 8, 8), 255, dtype=torch.uint8), labels)
    epochs = [
        torch.cat([labels for _, labels in data.training_batches(images, 10, generator)]).tolist()
        for generator in (Generator().manual_seed(0), Generator().manual_seed(1))
    ]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == seen
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
