"""Decoded images, kept in a file: the next process maps it into memory and decodes nothing.

The files are in ``paths.DECODED``, beside the results; whoever wants the room may delete them.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import PIL
import safetensors.torch
from safetensors import SafetensorError

from robust_transfer import paths
from robust_transfer.data.images import Images
from robust_transfer.files import HALF, lock

LEAST = 2**24
"""Bytes of pixels from which on images are kept; fewer are decoded in a second or two."""


def get_or_make(name: str, what: str, folder: Path, make: Callable[[], Images]) -> Images:
    """The kept images, or else new ones, which are kept. A damaged file is made anew.

    Args:
        name: of the file: which images, and how large.
        what: the data set in words; other words, another file.
        folder: what the images are made of: files known by path, size and time of change.
        make: makes the images.
    """
    found = [Path(top, n) for top, _, names in os.walk(folder, followlinks=True) for n in names]
    if not found:
        return make()
    stats = [(file.relative_to(folder), file.stat()) for file in sorted(found)]
    known = [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    key = hashlib.sha256(repr((what, known, PIL.__version__)).encode()).hexdigest()[:16]
    path = paths.DECODED / f"{name}-{key}.safetensors"
    if (images := _read(path)) is None:
        try:
            with lock(paths.DECODED):  # others wait, to find what this process makes
                images = _read(path) or _write(path, make())
        except OSError:  # nothing can be kept here, or the images cannot be made: then say so
            images = make()
    return images


def _read(path: Path) -> Images | None:
    """The images in a file; None if there is none, or not what was written."""
    damaged = OSError, SafetensorError, KeyError, TypeError
    with suppress(*damaged), safetensors.safe_open(path, "pt") as file:
        images = Images.of(file.get_tensor("pixels"), file.get_tensor("labels"))
        return images if file.metadata()["fingerprint"] == images.fingerprint else None


def _write(path: Path, images: Images) -> Images:
    """Keep images, where there is room for them."""
    half = path.with_name(f".{path.name}{HALF}")
    tensors = {"pixels": images.pixels, "labels": images.labels}
    with suppress(OSError, SafetensorError):
        safetensors.torch.save_file(tensors, half, {"fingerprint": images.fingerprint})
        half.replace(path)
    half.unlink(missing_ok=True)
    return images
