"""Decoded images are kept in a file, and taken from it if and only if they are those wanted."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from pictures import drawn, write_image, write_shard

from robust_transfer import paths
from robust_transfer.data import decoding, kept
from robust_transfer.data.registry import DATASETS, load


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data_dir of twelve images that are worth keeping, and an empty place for them."""
    monkeypatch.setattr(kept, "LEAST", 1)
    monkeypatch.setattr(paths, "DECODED", tmp_path / "decoded")
    shard = tmp_path / "data" / "cifar10" / "train-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    write_shard(shard, drawn(12), [*range(10), 0, 1])
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch):
    """What is decoded meanwhile."""
    sources, square = [], decoding.square

    def watched(source, side):
        sources.append(source)
        return square(source, side)

    monkeypatch.setattr(decoding, "square", watched)
    return sources


def fresh(data, count=12, name="cifar10", side=0):
    """The images as a new process would load them."""
    load.cache_clear()
    return load(name, "train", count, str(data), side)


def files():
    return sorted(paths.DECODED.glob("*.safetensors"))


def test_a_second_process_decodes_nothing(data, opened):
    first, again = fresh(data), fresh(data)
    assert len(opened) == 12 and len(files()) == 1
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.labels, again.labels)
    assert first.fingerprint == again.fingerprint
    assert files()[0].name.startswith("cifar10-train-12-32-")
    assert {path.name for path in paths.DECODED.iterdir()} == {".lock", files()[0].name}


def test_other_images_are_another_file(data, opened):
    for arguments in ((12,), (6,), (12, "cifar10", 16)):
        fresh(data, *arguments)
    assert len(opened) == 12 + 6 + 12 and len(files()) == 3


def test_changed_files_are_decoded_anew(data, opened):
    before = fresh(data)
    write_shard(data / "cifar10" / "train-00000-of-00001.parquet", drawn(12, seed=1), [3] * 12)
    after = fresh(data)
    assert len(opened) == 24 and after.labels.tolist() == [3] * 12
    assert before.fingerprint != after.fingerprint


def test_a_data_set_described_anew_is_decoded_anew(data, opened, monkeypatch):
    fresh(data)
    described = DATASETS["cifar10"]
    other = type(described)(**vars(described) | {"class_names": list("abcdefghij")})
    monkeypatch.setitem(DATASETS, "cifar10", other)
    fresh(data)
    assert len(opened) == 24


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def replace(path):
    path.write_bytes(b"something else")


def rename(path):
    safetensors.torch.save_file({"pixels": torch.zeros(1)}, path)


def unseal(path):
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)


@pytest.mark.parametrize("damage", [cut, alter, replace, rename, unseal])
def test_a_damaged_or_foreign_file_is_made_anew(data, opened, damage):
    expected = fresh(data).fingerprint
    damage(files()[0])
    assert fresh(data).fingerprint == expected and len(opened) == 24
    assert fresh(data).fingerprint == expected and len(opened) == 24


def test_deleted_files_are_made_anew(data, opened):
    expected = fresh(data).fingerprint
    shutil.rmtree(paths.DECODED)
    assert fresh(data).fingerprint == expected and len(opened) == 24


def test_where_nothing_can_be_written_images_are_decoded(data, opened):
    paths.DECODED.write_text("a file where the folder should be")
    assert len(fresh(data)) == len(fresh(data)) == 12
    assert len(opened) == 24


def test_a_change_of_kept_images_stays_in_its_process(data):
    expected = fresh(data).fingerprint
    fresh(data).pixels.zero_()
    assert fresh(data).fingerprint == expected


def test_what_ones_own_code_finds_is_not_kept(data, opened, monkeypatch):
    class Own(type(DATASETS["cifar10"])):
        pass

    monkeypatch.setitem(DATASETS, "cifar10", Own(**vars(DATASETS["cifar10"])))
    fresh(data)
    assert not paths.DECODED.exists()


def test_few_images_are_not_worth_a_file(data, opened, monkeypatch):
    monkeypatch.setattr(kept, "LEAST", 12 * 3 * 32**2 + 1)
    fresh(data)
    assert not paths.DECODED.exists()


def test_a_data_set_of_files_is_known_by_all_of_them(data, opened):
    for label in range(100):
        image = np.full((4, 4, 3), label, np.uint8)
        write_image(data / "imagenet_subset" / "train" / f"n{label:03d}" / "0.png", image)
    before = fresh(data, 100, "imagenet_subset", 4)
    assert fresh(data, 100, "imagenet_subset", 4).fingerprint == before.fingerprint
    assert len(opened) == 100
    write_image(data / "imagenet_subset" / "train" / "n042" / "0.png", 0 * image)
    assert fresh(data, 100, "imagenet_subset", 4).fingerprint != before.fingerprint
