import base64
import io
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from seaborn.utils import relative_luminance

from robust_transfer.presentation.figures import (
    INK,
    PALETTE,
    accuracy_curves,
    attack_examples,
    heatmap,
    inline,
    subplots,
    svg,
)

LIGHT, DARK = "#ffffff", "#121212"
"""Grounds of the theme."""


def contrast(one, other) -> float:
    """Contrast of two colours as WCAG 2.1 defines it."""
    low, high = sorted(relative_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def curves(end: float = 0.5):
    table = pd.DataFrame({"R<sub>pgd→nat</sub> 18": [0.9, end]}, index=[0, 8])
    return accuracy_curves(table, "ε")


def test_a_figure_is_the_same_file_in_every_build():
    assert svg(curves()) == svg(curves()) != svg(curves(0.4))


def test_drawings_on_a_page_share_no_names_and_find_their_own():
    names = []
    for end in (0.4, 0.5):
        drawing = inline(svg(curves(end)), "Curves.")
        names.append(set(re.findall(r' id="([^"]+)"', drawing)))
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing)) < names[-1]
    assert not set.intersection(*names)


def test_a_drawing_in_a_page_is_named_and_styles_nothing_else():
    drawing = inline(svg(curves()), 'A "curve" & more.')
    assert drawing.startswith('<div class="drawing"><svg role="img" aria-label="A &quot;curve')
    assert "<style" not in drawing and "fill: currentColor" in drawing and INK not in drawing


def test_small_images_stay_as_they_are():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    drawing = svg(attack_examples({"clean": images}, {"clean": ["cat", "dog"]}))
    files = re.findall(r'href="data:image/png;base64,\s*([^"]+)"', drawing)
    assert len(files) == 2 and drawing.count("image-rendering:pixelated") == 2
    shown = Image.open(io.BytesIO(base64.b64decode(files[0]))).convert("RGB")
    sent = np.asarray(shown, dtype=float)
    drawn = 255 * images[0].permute(1, 2, 0).numpy()
    assert min(abs(sent - drawn).max(), abs(sent[::-1] - drawn).max()) <= 1


@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_colours_of_lines_stand_out_in_either_theme(ground):
    assert min(contrast(colour, ground) for colour in PALETTE) >= 3  # success criterion 1.4.11
    assert len({*PALETTE}) == len(PALETTE)


SEEN_BY = {
    "protanopes": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopes": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopes": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""What is left of linear red, green and blue: Machado, Oliveira and Fernandes (2009)."""


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_colours_of_defences_are_told_apart_by_the_colour_blind(eyes):
    parts = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in PALETTE[:4]])
    seen = np.clip((parts / 255) ** 2.2 @ np.array(SEEN_BY[eyes]).T, 0, 1) ** (1 / 2.2)
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.15


@pytest.mark.parametrize("colours", ["cividis", "PuOr_r"])
def test_numbers_of_a_heatmap_can_be_read_on_every_cell(colours):
    _, ((axis,),) = subplots(1, 1, 3)
    values = np.linspace(0, 1, 201)
    heatmap(axis, pd.DataFrame([np.where(values == 0.5, np.nan, values)]), cmap=colours)
    (mesh,) = axis.collections
    cells = [colour for colour, value in zip(mesh.get_facecolors(), values, strict=True)
             if value != 0.5]  # fmt: skip
    letters = [text.get_color() for text in axis.texts]
    pairs = zip(letters, cells, strict=True)
    assert min(contrast(letter, cell) for letter, cell in pairs) >= 4.5
    assert {*letters} == {"black", "white"}
