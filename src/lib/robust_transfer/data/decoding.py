"""Encoded pictures become pixels; also a program of its own, so that many cores can do it.

Pillow holds Python's lock while it opens a small picture. As a program this file imports no more
than Pillow and NumPy, and starts in a moment: it reads a pickled ``(sources, side)`` and writes the
pixels.
"""

import io
import pickle
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import numpy as np
from PIL import Image, ImageOps

Source = bytes | Path | np.ndarray
"""An encoded picture, the file of one, or pixels, uint8 ``(H, W, 3)``."""


def square(source: Source, side: int) -> np.ndarray:
    """Open a picture as uint8 ``(3, side, side)`` in 0-255.

    Where it has another size, its middle square is resized with an antialiasing bicubic filter: the
    shorter side becomes ``side``, what the longer one has more is cut off. Grey becomes three equal
    channels, 16 bits become 8, and a camera's orientation is applied.

    Raises:
        ValueError: pixels whose range nobody knows, of 32 bits or floating point.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(stream)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; allowed are 8 or 16 bits a channel")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1)


def elsewhere(sources: list[Source], out: np.ndarray) -> bool:
    """Open pictures into ``out``, uint8 ``(N, 3, side, side)``, in a process of their own.

    Returns:
        Whether all are there; if not, opening them here says what is wrong.
    """
    program = [sys.executable, "-P", __file__]
    try:
        with Popen(program, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
            pickle.dump((sources, out.shape[-1]), process.stdin)
            process.stdin.close()
            return process.stdout.readinto(out.reshape(-1)) == out.size
    except OSError:  # it could not start, or ended early
        return False


if __name__ == "__main__":
    given, size = pickle.load(sys.stdin.buffer)
    for picture in given:
        sys.stdout.buffer.write(square(picture, size).tobytes())
