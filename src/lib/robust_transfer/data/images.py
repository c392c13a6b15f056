"""Images and labels as tensors: divided, augmented and put into batches.

A data set is one uint8 tensor; training moves it to the device once and augments whole batches
there, without worker processes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``; or, in training, a network's features of them, float
            ``(N, width)``.
        labels: int64 ``(N,)``, or float32 ``(N, classes)`` in {0, 1} where several may hold.
        fingerprint: SHA-256 over pixels and labels; equal sets have equal fingerprints.
    """

    pixels: Tensor
    labels: Tensor
    fingerprint: str

    @classmethod
    def of(cls, pixels: Tensor, labels: Tensor) -> Self:
        """Make a set of ``pixels`` and ``labels``, with its fingerprint.

        Raises:
            ValueError: pixels of another type or shape, or another number of labels.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            said = f"pixels are {pixels.dtype} {tuple(pixels.shape)}"
            raise ValueError(f"{said}: allowed is torch.uint8 (N, 3, H, W)")
        if len(labels) != len(pixels):
            raise ValueError(f"{len(labels)} labels of {len(pixels)} images: allowed is one each")
        digest = hashlib.sha256(pixels.cpu().flatten().numpy())  # in place: no copy of gigabytes
        digest.update(labels.cpu().flatten().numpy())
        return cls(pixels, labels, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Self:
        """The images at ``indices``, as a set of their own."""
        return Images.of(self.pixels[indices], self.labels[indices])

    def first(self, count: int) -> Self:
        """The first ``count`` images."""
        return Images.of(self.pixels[:count], self.labels[:count])

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """One image as a batch: float ``(1, 3, H, W)`` in [0, 1], and its label."""
        return to_float(self.pixels[index : index + 1]), self.labels[index : index + 1].clone()

    def to(self, device: torch.device) -> Self:
        """The same set on another device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.fingerprint)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images in [0, 1] and labels, in order, ``size`` at a time, as copies."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield to_float(pixels), labels.clone()


def divide(images: Images, train_size: int, seed: int) -> tuple[Images, Images]:
    """Divide a training set into training and validation images.

    The indices are the first ``train_size`` of NumPy's legacy choice without replacement; the rest,
    in index order, validates (protocol §2; 47,500 + 2,500 with seed 0 is paper A's own split).
    """
    chosen = np.random.RandomState(seed).choice(len(images), train_size, replace=False)
    rest = np.setdiff1d(np.arange(len(images)), chosen)
    return images.take(torch.from_numpy(chosen)), images.take(torch.from_numpy(rest))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 ``(N, 3, H, W)`` → float in [0, 1], contiguous as PyTorch makes tensors.

    Features are floats already, and stay what they are.
    """
    if pixels.is_floating_point():
        return pixels.clone()
    return pixels.contiguous().float().div_(255)


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

    Features are not augmented. Batch norm would normalise that image by itself alone; it waits for
    another shuffle.
    """
    order = torch.randperm(len(images), generator=generator, device=images.labels.device)
    for chosen in order.split(size):
        if len(chosen) > 1:
            pixels = images.pixels[chosen]
            moved = pixels if pixels.is_floating_point() else augment(pixels, generator)
            yield to_float(moved), images.labels[chosen]
