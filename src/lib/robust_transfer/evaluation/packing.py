"""Arrays in JSON records: their bytes in base64."""

import base64

import numpy as np


def pack_bits(hits: np.ndarray) -> str:
    """bool ``(N,)`` → one bit an image, base64."""
    return base64.b64encode(np.packbits(hits)).decode()


def unpack_bits(packed: str, count: int) -> np.ndarray:
    """Inverse of ``pack_bits``: bool ``(count,)``."""
    bits = np.frombuffer(base64.b64decode(packed), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def pack_array(array: np.ndarray) -> dict:
    """An array for JSON: type, shape and its bytes in base64."""
    encoded = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": encoded}


def unpack_array(packed: dict) -> np.ndarray:
    """Inverse of ``pack_array``."""
    flat = np.frombuffer(base64.b64decode(packed["base64"]), np.dtype(packed["dtype"]))
    return flat.reshape(packed["shape"])
