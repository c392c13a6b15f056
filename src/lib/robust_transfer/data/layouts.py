"""Where the images of a data set are found, in which layout, and in which order.

A layout lists pictures and labels without decoding any; ``decode`` opens and resizes the pictures.
"""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import torch
from PIL import Image

from robust_transfer.data import decoding, glyphs

SEED = 0  # of every order made here, by NumPy's legacy generator, which never changes its stream
MIXED = 20
"""Images a class from which on none is missing, if their order is mixed."""
SHARE = 1000
"""Pictures for which it pays to start a process."""


class Picture(NamedTuple):
    """An image that is still to be decoded, the file it is in, and its name there if it has one."""

    file: Path | None
    source: decoding.Source
    name: str = ""


Found = tuple[list[Picture], np.ndarray]
"""Pictures, and their labels, int64 ``(N,)``, or float32 ``(N, classes)`` in {0, 1}."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set; its subclasses are the layouts.

    Attributes:
        name: of the data set, and of its folder.
        class_names: in the order of the labels.
        side: height and width of its images in pixels, unless others are asked for.
        multi_label: whether an image may show several classes, or none.
    """

    name: str
    class_names: list[str]
    side: int
    multi_label: ClassVar[bool] = False

    @property
    def classes(self) -> int:
        """Number of classes, and of a network's logits."""
        return len(self.class_names)

    def find(self, split: str, count: int, data_dir: str) -> Found:
        """Find the first ``count`` images of a split; see ``data.registry.load`` for the errors."""
        raise NotImplementedError

    def folder(self, data_dir: str) -> Path:
        """Return the data set's own folder."""
        if not data_dir:
            raise FileNotFoundError(f"data_dir = '': {self.name} needs the folder of its images")
        if not Path(data_dir).is_dir():  # or a download would make it
            raise FileNotFoundError(f"data_dir = '{data_dir}': no such folder")
        return Path(data_dir) / self.name

    def at_hand(self, split: str, data_dir: str) -> bool:
        """Return whether there may be images of a split in a folder, without a download."""
        return not data_dir or self.folder(data_dir).is_dir()

    def check_count(self, split: str, count: int, available: int) -> None:
        """Raise ValueError unless a split of ``available`` images has ``count``."""
        if not 0 < count <= available:
            raise ValueError(f"count = {count}: {self.name} {split} has 1 to {available} images")


class Drawn(DataSet):
    """An embedded task: drawn by code, it needs no folder."""

    def find(self, split: str, count: int, data_dir: str) -> Found:
        pixels, labels = glyphs.draw(self.name, split, count)
        return in_memory(pixels.transpose(0, 2, 3, 1)), labels


@dataclass(frozen=True, kw_only=True)
class Parquet(DataSet):
    """The layout of the Hugging Face hub: ``<name>/<split>-<shard>-of-<shards>.parquet``.

    Attributes:
        sizes: how many images each split has.
        image_column, label_column: what the columns are called.
        test_stem: what the shards of the test split are called.
    """

    sizes: dict[str, int]
    image_column: str = "image"
    label_column: str = "label"
    test_stem: str = "test"

    def find(self, split: str, count: int, data_dir: str) -> Found:
        self.check_count(split, count, self.sizes[split])
        stem = self.test_stem if split == "test" else split
        folder, columns = self.folder(data_dir), [self.image_column, self.label_column]
        shards = sorted(folder.glob(f"{stem}-*.parquet"))
        if not shards:
            return self.find_elsewhere(stem, count, data_dir)
        pictures, labels = [], []
        for index, shard in enumerate(shards):
            if f"-{index:05d}-of-" not in shard.name:
                raise FileNotFoundError(f"{folder}: shard {index} of {self.name} {stem} is missing")
            try:
                table = parquet.read_table(shard, columns=columns).slice(0, count - len(labels))
                cells, numbers = (table[column].to_pylist() for column in columns)
                pictures += [Picture(shard, cell["bytes"], cell.get("path")) for cell in cells]
                labels += numbers
            except Exception as error:
                raise unreadable(shard, self.name, error) from None
            if len(labels) == count:
                break
        if len(labels) < count:
            said = f"{count} {stem} images wanted, {len(labels)} found; a shard is missing"
            raise FileNotFoundError(f"{folder}: {said}")
        return pictures, np.asarray(labels)

    def find_elsewhere(self, stem: str, count: int, data_dir: str) -> Found:
        """Find the images where there are no shards ``<stem>-….parquet``."""
        raise FileNotFoundError(f"data_dir = '{data_dir}': no {self.name}/{stem}-*.parquet")


@dataclass(frozen=True, kw_only=True)
class PatientFold(DataSet):
    """One of several divisions of a medical data set, which together test every image once.

    No patient is on both sides of a division. Patients are known by the number with which the
    names of their images begin, as the NIH's do.

    Attributes:
        whole: the data set that is divided, its own splits put together.
        fold: which division, from 0, out of how many ``folds``.
    """

    whole: Parquet
    fold: int
    folds: int

    def folder(self, data_dir: str) -> Path:
        return self.whole.folder(data_dir)

    def find(self, split: str, count: int, data_dir: str) -> Found:
        parts = [self.whole.find(s, size, data_dir) for s, size in self.whole.sizes.items()]
        pictures = [picture for found, _ in parts for picture in found]
        labels = np.concatenate([found for _, found in parts])
        names = [Path(picture.name or "").name for picture in pictures]
        if others := [name for name in names if not re.match(r"\d+_", name)]:
            said = f"an image of {self.whole.name} is called {others[0]!r}"
            raise ValueError(
                f"data_dir = '{data_dir}': {said}; allowed are names like 00000001_000"
            )
        patients = np.array([name.partition("_")[0] for name in names])
        tested = patient_folds(patients, labels, self.folds) == self.fold
        chosen = np.flatnonzero(tested if split == "test" else ~tested)
        self.check_count(split, count, len(chosen))
        chosen = chosen[_in_turn(labels[chosen])][:count]
        return [pictures[index] for index in chosen], labels[chosen]


def patient_folds(patients: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
    """Divide images into folds of like size and like shares of every class, patient by patient.

    Patients with most images choose first, each the fold that has fewest of their classes.

    Args:
        patients: of every image, ``(N,)``.
        labels: int ``(N,)``.
        folds: how many.

    Returns:
        The fold of every image, from 0, int64 ``(N,)``.
    """
    table = pd.crosstab(patients, labels)
    order = np.random.RandomState(SEED).permutation(len(table))
    order = order[np.argsort(-table.sum(axis=1).to_numpy()[order], kind="stable")]
    filled, fold_of = np.zeros((folds, table.shape[1]), dtype=int), {}
    for patient, own in zip(table.index[order], table.to_numpy()[order], strict=True):
        fold = int(((filled + own) * own).sum(axis=1).argmin())
        filled[fold] += own
        fold_of[patient] = fold
    return np.array([fold_of[patient] for patient in patients])


def _in_turn(labels: np.ndarray) -> np.ndarray:
    """An order in which classes take turns: the first k of every class before any class's next."""
    before = pd.Series(labels).groupby(labels).cumcount()
    return np.argsort(before.to_numpy(), kind="stable")


@dataclass(frozen=True, kw_only=True)
class Cifar(Parquet):
    """CIFAR as parquet shards, or else as torchvision keeps, or may put, its download."""

    torchvision_class: str

    def at_hand(self, split: str, data_dir: str) -> bool:
        if not data_dir or any(self.folder(data_dir).glob(f"{split}-*.parquet")):
            return True
        return Path(data_dir, self._kept().base_folder).is_dir()

    def _kept(self) -> type:
        """What torchvision keeps its download with."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_class)

    def find_elsewhere(self, stem: str, count: int, data_dir: str) -> Found:
        try:
            found = self._kept()(data_dir, train=stem == "train", download=True)
        except Exception as error:
            absent = f"no {self.name}/{stem}-*.parquet, and torchvision's {self.name} is neither"
            said = f"{absent} there nor could be downloaded ({error})"
            raise FileNotFoundError(f"data_dir = '{data_dir}': {said}") from None
        return in_memory(found.data[:count]), np.asarray(found.targets[:count], dtype=np.int64)


class ClassFolders(DataSet):
    """Image files by class: ``<name>/train/<class>/*`` and ``<name>/val/<class>/*``.

    Classes are the folders, the same in both splits, by their names in ``class_names``; only if
    these are mere numbers, as by ``numbered``, in alphabetical order. They take turns: the first k
    images of every class, in a shuffled order, come before any class's next. Hidden files are none.
    """

    def find(self, split: str, count: int, data_dir: str) -> Found:
        from torchvision.datasets import ImageFolder

        folder = self.folder(data_dir) / {"train": "train", "test": "val"}[split]
        try:
            found = ImageFolder(folder, is_valid_file=_is_picture)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data_dir = '{data_dir}': {error}") from None
        if len(found.classes) != self.classes:
            said = f"{self.name}/{folder.name} has {len(found.classes)} class folders"
            raise ValueError(f"data_dir = '{data_dir}': {said}; allowed are {self.classes}")
        names = self.class_names if self.class_names != numbered(self.classes) else found.classes
        train = [path.name for path in (folder.parent / "train").glob("*") if path.is_dir()]
        for what, others in (("class_names", names), (f"{self.name}/train", train)):
            if differ := sorted({*found.classes} ^ {*others}):
                said = f"{self.name}/{folder.name} and {what} do not share {', '.join(differ)}"
                raise ValueError(f"data_dir = '{data_dir}': {said}; allowed are the same names")
        shown = (file for file in sorted(folder.glob("*/*")) if not file.name.startswith("."))
        if unread := [file for file in shown if file.suffix.lower() in _NOT_READ]:
            said = f"{unread[0]} is an image of a kind that is not read"
            kinds = " ".join(_READ)
            raise ValueError(f"data_dir = '{data_dir}': {said}; allowed are {kinds}")
        self.check_count(split, count, len(found))
        order = np.random.RandomState(SEED).permutation(len(found))
        places = np.array([names.index(name) for name in found.classes])
        labels = places[np.asarray(found.targets)][order]
        turns = _in_turn(labels)[:count]
        files = [Path(found.samples[index][0]) for index in order[turns]]
        return [Picture(file, file) for file in files], labels[turns]


class ChestXray14(DataSet):
    """The NIH's own layout: a table, images in ``images/`` or ``images_*/images/``, and lists.

    The table is ``Data_Entry_2017.csv``; its columns in ``COLUMNS`` are read. A split is
    ``train_val_list.txt`` or ``test_list.txt``, an image name a line. With neither, a fifth of the
    patients, chosen with a fixed seed, are the test split. Both come in a shuffled order.
    """

    multi_label = True
    TABLE = "Data_Entry_2017.csv"
    COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
    LISTS: ClassVar = {"train": "train_val_list.txt", "test": "test_list.txt"}

    def find(self, split: str, count: int, data_dir: str) -> Found:
        folder = self.folder(data_dir)
        rows = self.rows(folder, split)
        self.check_count(split, count, len(rows))
        rows = rows.iloc[np.random.RandomState(SEED).permutation(len(rows))[:count]]
        files = {f.name: f for top in ("", "images_*/") for f in folder.glob(f"{top}images/*")}
        if absent := [name for name in rows["Image Index"] if name not in files]:
            said = f"{absent[0]} of {self.TABLE} is neither in images nor in images_*/images"
            raise FileNotFoundError(f"{folder}: {said}")
        # "No Finding" is no column: it is the label of zeros.
        findings = rows["Finding Labels"].str.get_dummies("|")
        labels = findings.reindex(columns=self.class_names, fill_value=0).to_numpy(np.float32)
        return [Picture(files[name], files[name]) for name in rows["Image Index"]], labels

    def rows(self, folder: Path, split: str) -> pd.DataFrame:
        """Return the rows of the table that belong to a split, in the table's order."""
        path = folder / self.TABLE
        if not path.exists():
            raise FileNotFoundError(f"data_dir = '{folder.parent}': no {self.name}/{self.TABLE}")
        try:
            table = pd.read_csv(path, usecols=self.COLUMNS, keep_default_na=False)
        except Exception as error:
            raise unreadable(path, self.name, error) from None
        findings = table["Finding Labels"].str.split("|").explode()
        if (both := table["Finding Labels"].str.contains(r"No Finding\||\|No Finding")).any():
            said = f"finding = {table['Finding Labels'][both].iloc[0]!r}"
            raise ValueError(f"{path}: {said}: allowed is No Finding by itself")
        allowed = ["No Finding", *self.class_names]
        if len(unknown := findings[~findings.isin(allowed)]):
            said = f"finding = {unknown.iloc[0]!r}: allowed are {', '.join(allowed)}"
            raise ValueError(f"{path}: {said}")
        _once(path, table["Image Index"])
        if any((folder / name).exists() for name in self.LISTS.values()):
            return table[table["Image Index"].isin(self.listed(folder, table)[split])]
        patients = np.random.RandomState(SEED).permutation(np.unique(table["Patient ID"]))
        tested = table["Patient ID"].isin(patients[: len(patients) // 5])
        return table[tested if split == "test" else ~tested]

    def listed(self, folder: Path, table: pd.DataFrame) -> dict[str, pd.Series]:
        """Return the names of both lists, which share no image and no patient."""
        lists = {}
        for split, name in self.LISTS.items():
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder}: no {name}; allowed are both lists or neither")
            try:
                words = (folder / name).read_text(encoding="utf-8").split()
            except UnicodeDecodeError as error:
                raise unreadable(folder / name, self.name, error) from None
            lists[split] = _once(folder / name, pd.Series(words, dtype=object))
            if absent := sorted({*words} - {*table["Image Index"]}):
                said = f"{absent[0]} is not in {self.TABLE}"
                raise ValueError(f"{folder / name}: {said}; allowed are names of its images")
        train, test = (table[table["Image Index"].isin(names)] for names in lists.values())
        for column in ("Image Index", "Patient ID"):
            if shared := sorted({*train[column]} & {*test[column]}):
                both = " and ".join(self.LISTS.values())
                said = f"{len(shared)} of {column} are in {both}, the first of them {shared[0]}"
                raise ValueError(f"{folder}: {said}; allowed are lists that share none")
        return lists


def _once(file: Path, names: pd.Series) -> pd.Series:
    """Return the names of a file's images; raise ValueError if one stands there twice."""
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        raise ValueError(f"{file}: {twice} stands there twice; allowed is once")
    return names


_READ = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_NOT_READ = {*Image.registered_extensions()} - {*_READ}
"""Kinds of image files that torchvision's ``ImageFolder`` knows, and all others."""


def _is_picture(file: str) -> bool:
    return file.lower().endswith(_READ) and not Path(file).name.startswith(".")


def numbered(count: int) -> list[str]:
    """Name classes by their numbers."""
    return [f"class {label}" for label in range(count)]


def checked_labels(dataset: DataSet, split: str, found: object, count: int) -> np.ndarray:
    """The labels of a split's first ``count`` images as the data set should have them.

    Returns:
        int64 ``(count,)``, or of independent labels float32 ``(count, classes)`` of 0 and 1.

    Raises:
        ValueError: labels of another shape, type or range, or of so few classes that the images
            cannot be in a mixed order.
    """
    labels, classes, name = np.asarray(found), dataset.classes, f"{dataset.name} {split}"
    shape = (count, classes) if dataset.multi_label else (count,)
    if labels.shape != shape:
        raise ValueError(f"{name}: labels of shape {labels.shape}; allowed is {shape}")
    if dataset.multi_label:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{name}: labels other than 0 and 1; allowed are these")
        return labels.astype(np.float32)
    if labels.dtype.kind not in "iu":
        said = f"allowed are whole numbers, 0 to {classes - 1}"
        raise ValueError(f"{name}: labels of type {labels.dtype}; {said}")
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high < classes:
        said = f"allowed are 0 to {classes - 1}"
        raise ValueError(f"{name}: labels from {low} to {high}; {said}")
    shown = len(np.unique(labels))
    missing = classes * math.exp(-count / classes)  # on average, in a mixed order
    allowed = 0 if count >= MIXED * classes else missing + 5 * math.sqrt(missing) + 3
    if classes - shown > allowed:
        said = f"the first {count} images show {shown} of {classes} classes"
        raise ValueError(f"{name}: {said}; allowed are images in a mixed order")
    return labels.astype(np.int64)


def in_memory(pixels: np.ndarray) -> list[Picture]:
    """List images, uint8 ``(N, H, W, 3)``, as pictures."""
    return [Picture(None, image) for image in pixels]


def unreadable(file: Path | None, name: str, error: Exception) -> OSError:
    """Make the error of a damaged file of the data set ``name``, in one line."""
    reason = " ".join(str(error).split())
    return OSError(f"{file}: not a readable {name} file, copy it anew ({reason})")


def decode(pictures: list[Picture], name: str, side: int) -> np.ndarray:
    """Decode the pictures of the data set ``name`` into one array; see ``decoding.square``.

    Many of them are decoded in as many processes as there are threads to compute with.

    Returns:
        uint8 ``(N, 3, side, side)`` in 0–255, each image written where it stays: at 224 pixels
        paper B's 50,000 take 7.5 GB.

    Raises:
        OSError: a picture is truncated or altered.
    """
    pixels = np.empty((len(pictures), 3, side, side), np.uint8)
    threads = torch.get_num_threads()
    share = max(SHARE, math.ceil(len(pictures) / threads))

    def put(start: int) -> None:
        part, out = pictures[start : start + share], pixels[start : start + share]
        if len(pictures) > share and decoding.elsewhere([p.source for p in part], out):
            return
        for index, picture in enumerate(part):
            try:
                out[index] = decoding.square(picture.source, side)
            except Exception as error:
                raise unreadable(picture.file, name, error) from None

    with ThreadPoolExecutor(threads) as pool:  # each waits for a process
        list(pool.map(put, range(0, len(pictures), share)))
    return pixels
