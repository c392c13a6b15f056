"""Small pictures in files and in parquet shards, as tests of the data make them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image


def drawn(count, side=32, seed=0):
    """Images uint8 ``(count, side, side, 3)``."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, lossless=True)
    return file.getvalue()


def write_shard(path, images, labels, columns=("img", "label"), names=None):
    path.parent.mkdir(exist_ok=True)
    names = names or [f"{i}.png" for i in range(len(images))]
    cells = [{"bytes": encoded(i), "path": n} for i, n in zip(images, names, strict=True)]
    parquet.write_table(pa.table(dict(zip(columns, (cells, labels), strict=True))), path)
