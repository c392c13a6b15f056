"""Images and labels as tensors: parquet folders, torchvision downloads, or the embedded tasks.

A data set is one uint8 tensor; training moves it to the device once and augments whole batches
there, without worker processes.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Generator, Tensor

from robust_transfer import embedded
from robust_transfer.checks import one_of


@dataclass(frozen=True)
class Source:
    """Where a downloadable data set is found and how its columns are called."""

    classes: int
    image_column: str
    label_column: str
    torchvision_class: type
    train_size: int = 50_000
    test_size: int = 10_000


CIFAR = {
    "cifar10": Source(10, "img", "label", torchvision.datasets.CIFAR10),
    "cifar100": Source(100, "img", "fine_label", torchvision.datasets.CIFAR100),
}
DATASETS = {name: source.classes for name, source in CIFAR.items()} | embedded.TASKS
"""Number of classes of every data set known by name."""


CLASS_NAMES = {task: embedded.class_names(task) for task in embedded.TASKS} | {
    "cifar10": [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
    "cifar100": [f"class {label}" for label in range(100)],
}


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``.
        fingerprint: SHA-256 over pixels and labels; equal sets have equal fingerprints.
    """

    pixels: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        """The images at ``indices``, as a set of their own."""
        return gather(self.pixels[indices], self.labels[indices])

    def first(self, count: int) -> "Images":
        """The first ``count`` images."""
        return gather(self.pixels[:count], self.labels[:count])

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """One image as a batch: float ``(1, 3, H, W)`` in [0, 1], and its label ``(1,)``."""
        return to_float(self.pixels[index : index + 1]), self.labels[index : index + 1]

    def to(self, device: torch.device) -> "Images":
        """The same set on another device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.fingerprint)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images in [0, 1] and labels, in order, ``size`` at a time."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield to_float(pixels), labels


def gather(pixels: Tensor, labels: Tensor) -> Images:
    """Make a set of ``pixels`` and ``labels``, with its fingerprint."""
    digest = hashlib.sha256(pixels.contiguous().numpy().tobytes())
    digest.update(labels.contiguous().numpy().tobytes())
    return Images(pixels, labels, digest.hexdigest())


@lru_cache(maxsize=4)
def load(name: str, split: str, count: int, data_dir: str = "") -> Images:
    """Load the first ``count`` images of a split.

    Args:
        name: a key of ``DATASETS``.
        split: ``train`` or ``test``.
        count: how many images, from the beginning of the split.
        data_dir: folder that holds ``<name>/<split>-*.parquet`` (Hugging Face layout), or where
            torchvision keeps, or may put, its download. The embedded tasks need none.

    Raises:
        ValueError: unknown ``name`` or ``split``; more images asked for than there are.
        FileNotFoundError: no data at ``data_dir`` and none could be downloaded.
        OSError: a file is truncated or altered.
    """
    one_of("dataset", name, DATASETS)
    one_of("split", split, ("train", "test"))
    if name in embedded.TASKS:
        pixels, labels = embedded.draw(name, split, count)
    else:
        available = CIFAR[name].train_size if split == "train" else CIFAR[name].test_size
        if not 0 < count <= available:
            raise ValueError(f"count = {count}: {name} {split} has 1 to {available} images")
        if not data_dir:
            raise FileNotFoundError(f"data_dir = '': {name} needs the folder of its images")
        shards = sorted((Path(data_dir) / name).glob(f"{split}-*.parquet"))
        read = _read_parquet if shards else _read_torchvision
        pixels, labels = read(name, split, count, shards or Path(data_dir))
    return gather(torch.from_numpy(pixels), torch.from_numpy(labels))


def _read_parquet(
    name: str, split: str, count: int, shards: list[Path]
) -> tuple[np.ndarray, np.ndarray]:
    source = CIFAR[name]
    images: list[np.ndarray] = []
    labels: list[int] = []
    for index, shard in enumerate(shards):
        if f"-{index:05d}-of-" not in shard.name:
            raise FileNotFoundError(f"{shard.parent}: shard {index} of {name} {split} is missing")
        try:
            table = parquet.read_table(shard, columns=[source.image_column, source.label_column])
            table = table.slice(0, count - len(images))
            encoded = table[source.image_column].to_pylist()
            images += [_decode(image["bytes"]) for image in encoded]
            labels += table[source.label_column].to_pylist()
        except Exception as error:
            raise OSError(f"{shard}: not a readable {name} shard, copy it anew ({error})") from None
        if len(images) == count:
            break
    if len(images) < count:
        raise FileNotFoundError(
            f"{shards[0].parent}: {count} {split} images wanted, {len(images)} found; "
            "a shard is missing"
        )
    return np.stack(images).transpose(0, 3, 1, 2).copy(), np.asarray(labels, dtype=np.int64)


def _decode(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _read_torchvision(
    name: str, split: str, count: int, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = CIFAR[name].torchvision_class(folder, train=split == "train", download=True)
    except Exception as error:
        raise FileNotFoundError(
            f"data_dir = '{folder}': no {name}/{split}-*.parquet, and torchvision's {name} is "
            f"neither there nor could be downloaded ({error})"
        ) from None
    pixels = found.data[:count].transpose(0, 3, 1, 2).copy()
    return pixels, np.asarray(found.targets[:count], dtype=np.int64)


def split(images: Images, train_size: int, seed: int) -> tuple[Images, Images]:
    """Divide a training set into training and validation images.

    The indices are the first ``train_size`` of NumPy's legacy choice without replacement; the rest,
    in index order, validates (protocol §2; 47,500 + 2,500 with seed 0 is paper A's own split).
    """
    chosen = np.random.RandomState(seed).choice(len(images), train_size, replace=False)
    rest = np.setdiff1d(np.arange(len(images)), chosen)
    return images.take(torch.from_numpy(chosen)), images.take(torch.from_numpy(rest))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 ``(N, 3, H, W)`` → float in [0, 1], channels last."""
    return pixels.to(memory_format=torch.channels_last).float().div_(255)


def augment(pixels: Tensor, generator: Generator) -> Tensor:
    """Random crop after zero padding by an eighth of the side, and random horizontal flip.

    Args:
        pixels: uint8 ``(N, 3, H, W)``; 32×32 images are padded by paper A's 4 pixels.
        generator: on the device of ``pixels``.
    """
    count, _, height, width = pixels.shape
    pad = height // 8
    padded = F.pad(pixels, (pad,) * 4)

    def draw(choices: int) -> Tensor:
        return torch.randint(choices, (count, 1), generator=generator, device=pixels.device)

    rows = draw(2 * pad + 1) + torch.arange(height, device=pixels.device)
    columns = draw(2 * pad + 1) + torch.arange(width, device=pixels.device)
    columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    batch = torch.arange(count, device=pixels.device)
    cropped = padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def training_batches(
    images: Images, size: int, generator: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented float batches; a last batch of a single image is left out.

    Batch norm would normalise that image by itself alone; it waits for another shuffle.
    """
    order = torch.randperm(len(images), generator=generator, device=images.labels.device)
    for chosen in order.split(size):
        if len(chosen) > 1:
            yield to_float(augment(images.pixels[chosen], generator)), images.labels[chosen]
