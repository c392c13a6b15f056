"""Two related image tasks drawn by code, playing CIFAR-100 → CIFAR-10 in the demonstration.

Every class has two cues. The robust one is a tinted glyph: far above the attack's ε in amplitude in
most images, but varied in place, size, contrast, ground and clutter. The other is a fine grating of
an amplitude below ε: a quick way to high natural accuracy, and one that an attack can rewrite (the
non-robust features of Tsipras et al. 2019 and Ilyas et al. 2019). Both survive a small shift and a
left-right flip: the glyphs are symmetric, and a grating is known by its frequency, not its phase.
The target has new glyphs in the tints of the source, and further gratings of the same family.
"""

from collections.abc import Iterator

import numpy as np

from robust_transfer.config import one_of

TASKS = {"glyphs20": 20, "glyphs10": 10}  # source and target: number of classes
SPLITS = ("train", "test")
SIZE = 16  # height and width in pixels

# Class = 2 × glyph + tint; half the label in the tint keeps adversarial training from stalling.
GLYPHS = {
    "glyphs20": (
        *("ring", "square", "cross", "saltire", "rows"),
        *("columns", "pyramid", "funnel", "diamond", "tee"),
    ),
    "glyphs10": ("disc", "aitch", "windows", "dash", "target"),
}
TINTS = np.array([[1.3, 0.7, 0.1], [0.1, 0.7, 1.3]])  # gain of R, G, B: warm and cool
CONTRAST = (0.05, 0.48)  # of a glyph to its ground, before the tint; images are in [0, 1]
CELL = (1.6, 2.0)  # pixels per cell of a 7 × 7 stencil
SHIFT = 0.8  # pixels off the middle, at most
GROUND = 0.06  # of each channel of the ground off grey, at most
SLOPE = 0.03  # rise of the ground from the middle to an edge, at most
BLOBS, BLOB = 2, 0.03  # clutter: number of blobs, and their height at most

# Grating k has waves FREQUENCIES[k % 11] and colour COLOURS[k % 3]: 33 pairs, all different.
FREQUENCIES = np.array(
    [
        *([1 / 2, 0], [1 / 3, 0], [1 / 4, 0], [0, 1 / 2], [0, 1 / 3], [0, 1 / 4]),
        *([1 / 2, 1 / 2], [1 / 3, 1 / 3], [1 / 4, 1 / 4], [1 / 2, 1 / 4], [1 / 4, 1 / 2]),
    ]
)  # cycles per pixel along x and y
COLOURS = np.array([[1, 1, 1], [1, -1, 0], [-1, -1, 1]])  # gain of R, G, B
FIRST = {"glyphs20": 0, "glyphs10": 20}  # grating of class 0; class c has the c-th after it
AMPLITUDE = 5 / 256  # of the grating: below ε = 8/256
NOISE = 2 / 256  # deviation of the pixel noise


def class_names(task: str) -> list[str]:
    """Name the classes of a task in the order of their labels, for instance ``warm ring``."""
    return [f"{tint} {glyph}" for glyph in GLYPHS[task] for tint in ("warm", "cool")]


def stencils() -> dict[str, np.ndarray]:
    """Return the glyphs by name, each bool ``(7, 7)`` and symmetric left to right."""
    y, x = np.mgrid[-3:4, -3:4]
    r, ax, ay = np.hypot(x, y), abs(x), abs(y)
    return {
        "ring": (r > 1.9) & (r < 3.4),
        "square": np.maximum(ax, ay) == 3,
        "cross": (ax == 0) | (ay == 0),
        "saltire": ax == ay,
        "rows": ay >= 2,
        "columns": ax >= 2,
        "pyramid": y >= 2 * ax - 3,
        "funnel": -y >= 2 * ax - 3,
        "diamond": ax + ay == 3,
        "tee": (y <= -2) | (ax == 0),
        "disc": r < 2.6,
        "aitch": (ax == 3) | (ay == 0),
        "windows": (ax > 0) & (ay > 0),
        "dash": ay <= 1,
        "target": (r < 1.2) | ((r > 2.5) & (r < 3.7)),
    }


def draw(task: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first ``count`` images of a split: the same in every call, and in every longer one.

    Args:
        task: a key of ``TASKS``.
        split: one of ``SPLITS``; the two are drawn independently.
        count: number of images, at least 1. The classes take turns: each prefix is balanced.

    Returns:
        Images, uint8 ``(count, 3, 16, 16)`` in 0–255, and labels, int64 ``(count,)``.

    Raises:
        ValueError: unknown ``task`` or ``split``, or ``count`` below 1.
    """
    one_of("task", task, TASKS)
    one_of("split", split, SPLITS)
    if count < 1:
        raise ValueError(f"count = {count!r}: allowed are whole numbers from 1")
    labels = np.arange(count, dtype=np.int64) % TASKS[task]
    # One row of numbers per image, and a stream of its own for the noise: prefixes stay the same.
    seed = [list(TASKS).index(task), SPLITS.index(split)]
    dice = iter(np.random.default_rng([*seed, 0]).random((count, 32)).T[..., None, None])
    noise = np.random.default_rng([*seed, 1]).standard_normal((count, 3, SIZE, SIZE), np.float32)
    images = ground(dice) + glyphs(task, labels, dice) + gratings(FIRST[task] + labels, dice)
    images += NOISE * noise
    return np.clip(np.rint(255 * images), 0, 255).astype(np.uint8), labels


def uniform(dice: Iterator[np.ndarray], low: float, high: float) -> np.ndarray:
    """Take the next number of every image, float ``(count, 1, 1)``, uniform in [low, high)."""
    return low + (high - low) * next(dice)


def axes() -> tuple[np.ndarray, np.ndarray]:
    """Return pixel offsets from the middle: x ``(1, 1, 16)`` and y ``(1, 16, 1)``."""
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    return offset[None, None, :], offset[None, :, None]


def ground(dice: Iterator[np.ndarray]) -> np.ndarray:
    """Return a sloping coloured ground under soft blobs, float ``(count, 3, 16, 16)``."""
    x, y = axes()
    edge = SIZE / 2
    grey = (uniform(dice, -SLOPE, SLOPE) * x + uniform(dice, -SLOPE, SLOPE) * y) / edge
    for _ in range(BLOBS):
        middle_x, middle_y = uniform(dice, -edge, edge), uniform(dice, -edge, edge)
        width, height = uniform(dice, 1, 2.5), uniform(dice, -BLOB, BLOB)
        away = (x - middle_x) ** 2 + (y - middle_y) ** 2
        grey = grey + height * np.exp(-away / (2 * width**2))
    return np.stack([grey + uniform(dice, 0.5 - GROUND, 0.5 + GROUND) for _ in range(3)], 1)


def glyphs(task: str, labels: np.ndarray, dice: Iterator[np.ndarray]) -> np.ndarray:
    """Return each label's glyph in its tint on black, float ``(count, 3, 16, 16)``."""
    known = stencils()
    # Two empty cells all around: what lies further out is clipped into them.
    plates = np.pad([known[name] for name in GLYPHS[task]], ((0, 0), (2, 2), (2, 2))).astype(float)
    plate, cell = labels[:, None, None] // 2, uniform(dice, *CELL)
    column, row = (
        np.clip((axis - uniform(dice, -SHIFT, SHIFT)) / cell + 5, 0, 9.99) for axis in axes()
    )
    j, i = column.astype(int), row.astype(int)
    right, down = column - j, row - i  # bilinear weights
    top = plates[plate, i, j] * (1 - right) + plates[plate, i, j + 1] * right
    bottom = plates[plate, i + 1, j] * (1 - right) + plates[plate, i + 1, j + 1] * right
    mask = uniform(dice, *CONTRAST) * (top * (1 - down) + bottom * down)
    return mask[:, None] * TINTS[labels % 2][:, :, None, None]


def gratings(index: np.ndarray, dice: Iterator[np.ndarray]) -> np.ndarray:
    """Return the gratings of these numbers at random phases, float ``(count, 3, 16, 16)``."""
    wave = np.full((len(index), 1, 1), AMPLITUDE)
    for axis, frequency in zip(axes(), FREQUENCIES[index % len(FREQUENCIES)].T, strict=True):
        f, phase = frequency[:, None, None], uniform(dice, 0, 1)
        # A wave of two pixels would vanish at some phases, and a flat one would change its height.
        phase = np.where(f == 1 / 2, np.rint(phase) / 2, phase) * (f > 0)
        wave = wave * np.cos(2 * np.pi * (f * (axis - 0.5) + phase))
    return wave[:, None] * COLOURS[index % len(COLOURS)][:, :, None, None]
