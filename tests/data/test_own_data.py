"""A user's own images: read as a viewer shows them, classes by name, or refused in one line."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from robust_transfer.data.layouts import ClassFolders, DataSet, Found, in_memory
from robust_transfer.data.registry import DATASETS, load, register

GREY = np.full((8, 8, 3), 100, np.uint8)
RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What a test registers is forgotten after it."""
    before = dict(DATASETS)
    yield
    DATASETS.clear()
    DATASETS.update(before)


def folders(root, train=("a", "b"), val=("a", "b"), class_names=("a", "b")):
    """Folders of one grey image each, registered as ``own``; the first training image's file."""
    for split, names in (("train", train), ("val", val)):
        for shade, name in enumerate(names):
            folder = root / "own" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(GREY + np.uint8(shade)).save(folder / "0.png")
    register(ClassFolders(name="own", class_names=list(class_names), side=8))
    return root / "own" / "train" / train[0] / "0.png"


def first_of_class(root, label=0):
    images = load("own", "train", 2, str(root))
    return images.pixels[images.labels == label][0].numpy()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    file = folders(tmp_path)
    file.unlink()
    Image.fromarray(RAMP.astype(np.uint16)).save(file.with_suffix(f".{suffix}"))
    assert np.array_equal(first_of_class(tmp_path)[1], np.rint(RAMP.astype(np.uint16) / 257))


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_of_unknown_range_are_refused_by_file(tmp_path, kind, mode):
    file = folders(tmp_path)
    file.unlink()
    Image.fromarray((RAMP / 65535).astype(kind)).save(file.with_suffix(".tif"))
    line = rf"0\.tif: .*pixels of mode {mode}; allowed are 8 or 16 bits a channel"
    with pytest.raises(OSError, match=line) as caught:
        load("own", "train", 2, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_cameras_orientation_is_applied(tmp_path):
    file = folders(tmp_path)
    file.unlink()
    stored = np.zeros((8, 8, 3), np.uint8)
    stored[:4] = 255  # its upper half is white; a viewer turns it to the right
    picture = Image.fromarray(stored)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(file.with_suffix(".jpg"), exif=exif, quality=100)
    seen = first_of_class(tmp_path)[0]
    assert seen[:, 4:].min() > 200 and seen[:, :4].max() < 50


def test_hidden_files_are_no_images(tmp_path):
    file = folders(tmp_path)
    file.with_name("._0.png").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert len(load("own", "train", 2, str(tmp_path))) == 2


def test_classes_are_matched_by_name_whatever_their_order(tmp_path):
    names = [str(number) for number in range(12)]  # as folders: 0, 1, 10, 11, 2, …
    folders(tmp_path, names, names, names)
    images = load("own", "train", 12, str(tmp_path))
    assert images.pixels[images.labels.argsort(), 0, 0, 0].tolist() == list(range(100, 112))


def test_numbered_classes_take_the_folders_in_their_order(tmp_path):
    folders(tmp_path, ("x", "y"), ("x", "y"), ("class 0", "class 1"))
    assert first_of_class(tmp_path, 1)[0, 0, 0] == 101


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"val": ("a", "c")}, "own/val and class_names do not share b, c"),
        ({"class_names": ("a", "z")}, "own/train and class_names do not share b, z"),
        (
            {"val": ("a", "c"), "class_names": ("class 0", "class 1")},
            "own/val and own/train do not share b, c",
        ),
    ],
)
def test_folders_of_other_names_are_refused(tmp_path, changes, line):
    folders(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"{line}; allowed are the same names") as caught:
        for split in ("train", "test"):
            load("own", split, 2, str(tmp_path))
    assert "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Mine(DataSet):
    """Grey images in memory, with whatever labels."""

    labels: object

    def find(self, split: str, count: int, data_dir: str) -> Found:
        return in_memory(np.repeat(GREY[None], count, 0)), self.labels

    def __hash__(self) -> int:
        return id(self)


class Independent(Mine):
    multi_label = True


ALTERNATING = np.arange(40) % 2


@pytest.mark.parametrize("labels", [ALTERNATING.astype(np.int32), ALTERNATING.tolist()], ids=type)
def test_whole_numbers_of_any_kind_are_labels(labels):
    register(Mine(name="own", class_names=["a", "b"], side=8, labels=labels))
    images = load("own", "train", 40)
    assert images.labels.dtype.is_signed and images.labels.tolist() == ALTERNATING.tolist()


def test_independent_labels_of_any_kind_are_taken():
    both = np.eye(2, dtype=np.float64)[ALTERNATING]
    register(Independent(name="own", class_names=["a", "b"], side=8, labels=both))
    assert load("own", "train", 40).labels.numpy().dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "labels", "line"),
    [
        (Mine, ALTERNATING + 1, "labels from 1 to 2; allowed are 0 to 1"),
        (Mine, ALTERNATING - 1, "labels from -1 to 0; allowed are 0 to 1"),
        (Mine, ALTERNATING[:39], r"labels of shape \(39,\); allowed is \(40,\)"),
        (Mine, ALTERNATING == 1, "labels of type bool; allowed are whole numbers, 0 to 1"),
        (Mine, ALTERNATING / 2, "labels of type float64; allowed are whole numbers, 0 to 1"),
        (Mine, 0 * ALTERNATING, "the first 40 images show 1 of 2 classes; allowed are images"),
        (Independent, ALTERNATING, r"labels of shape \(40,\); allowed is \(40, 2\)"),
        (Independent, 2 * np.eye(2)[ALTERNATING], "labels other than 0 and 1"),
    ],
)
def test_other_labels_are_refused_where_the_data_set_enters(kind, labels, line):
    register(kind(name="own", class_names=["a", "b"], side=8, labels=labels))
    with pytest.raises(ValueError, match=f"^own train: {line}") as caught:
        load("own", "train", 40)
    assert "\n" not in str(caught.value)


def test_a_sixteen_bit_image_is_turned_too(tmp_path):
    file = folders(tmp_path)
    file.unlink()
    upper = np.zeros((8, 8), np.uint16)
    upper[:4] = 65535
    image = Image.fromarray(upper)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(file, exif=exif)
    shown = first_of_class(tmp_path)[0]
    assert shown[:, 4:].min() == 255 and shown[:, :4].max() == 0


def test_an_image_of_a_kind_that_is_not_read_is_named(tmp_path):
    file = folders(tmp_path)
    Image.fromarray(GREY).save(file.with_name(".a.gif"))  # a hidden one is no image
    assert len(load("own", "train", 2, str(tmp_path))) == 2
    load.cache_clear()
    Image.fromarray(GREY).save(file.with_suffix(".gif"))
    with pytest.raises(ValueError, match=r"a/0\.gif is an image of a kind that is not read; allow"):
        load("own", "train", 2, str(tmp_path))


@dataclass(frozen=True, kw_only=True)
class Careless(DataSet):
    """Finds so many images of so many classes, in their order, whatever it is asked for."""

    found: int
    shown: int

    def find(self, split: str, count: int, data_dir: str) -> Found:
        pixels = np.zeros((self.found, 8, 8, 3), np.uint8)
        return in_memory(pixels), np.arange(self.found) * self.shown // self.found


@pytest.mark.parametrize(
    ("classes", "found", "shown", "line"),
    [
        (2, 40, 2, "own train: it found 40 images; allowed are 100, as many as were asked for"),
        (2, 15, 2, "own train: it found 15 images; allowed are 100, as many as were asked for"),
        (100, 100, 4, "own train: the first 100 images show 4 of 100 classes; allowed are images"),
        (20, 100, 10, "own train: the first 100 images show 10 of 20 classes; allowed are image"),
        (100, 100, 60, None),
        (20, 100, 19, None),
    ],
)
def test_a_careless_data_set_is_told_so(classes, found, shown, line):
    names = [str(label) for label in range(classes)]
    register(Careless(name="own", class_names=names, side=8, found=found, shown=shown))
    if line is None:
        assert len(load("own", "train", 100)) == 100
        return
    with pytest.raises(ValueError, match=line):
        load("own", "train", 100)
