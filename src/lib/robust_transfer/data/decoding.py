"""Encoded pictures become pixels; also a program of its own, so that many cores can do it.

Pillow holds Python's lock while it opens a small picture. As a program this file imports no more
than Pillow and NumPy, and starts in a moment: it reads a pickled ``(sources, side)`` and writes the
pixels.
"""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Source = bytes | Path | np.ndarray
"""An encoded picture, the file of one, or pixels, uint8 ``(H, W, 3)``."""


def square(source: Source, side: int) -> np.ndarray:
    """Open a picture as uint8 ``(3, side, side)`` in 0-255.

    Where it has another size, its middle square is resized with an antialiasing bicubic filter: the
    shorter side becomes ``side``, what the longer one has more is cut off. Grey becomes three equal
    channels.
    """
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source)
    else:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    image = image.convert("RGB")
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def elsewhere(sources: list[Source], out: np.ndarray) -> bool:
    """Open pictures into ``out``, uint8 ``(N, 3, side, side)``, in a process of their own.

    Returns:
        Whether all are there; if not, opening them here says what is wrong.
    """
    command = [sys.executable, "-P", __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, **pipes) as process:
            pickle.dump((sources, out.shape[-1]), process.stdin)
            process.stdin.close()
            return process.stdout.readinto(out.reshape(-1)) == out.size
    except OSError:  # it could not start, or ended early
        return False


def main() -> None:
    """Read sources, and write what they show."""
    sources, side = pickle.load(sys.stdin.buffer)
    for source in sources:
        sys.stdout.buffer.write(square(source, side).tobytes())


if __name__ == "__main__":
    main()
