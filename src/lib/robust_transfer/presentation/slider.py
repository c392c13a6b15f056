"""A figure to drag: attacked images along ε, what networks answer, and how sure they are.

The page carries all of it: what the networks answered, and attacked images as differences to the
clean ones. ``book/_static/slider.js`` draws them; without scripts a static figure stays.
"""

import base64
import textwrap
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure

from robust_transfer.data.images import Images, to_float
from robust_transfer.evaluation.budgets import Budgets, Condition
from robust_transfer.evaluation.single_image import Shown
from robust_transfer.presentation import figures
from robust_transfer.presentation.tables import percent


@dataclass(frozen=True)
class Slider:
    """What the figure shows, and a static one for where it cannot be dragged.

    Attributes:
        content: for the page's script, as in its JSON.
        twin: a Matplotlib figure of one image.
        alt_text: what both show, for readers who do not see them.
    """

    content: dict = field(repr=False)
    twin: Figure
    alt_text: str

    def _repr_html_(self) -> str:
        drawn = figures.scripted(self.twin, self.content, self.alt_text)
        return f'<div class="slider">{drawn}</div>'


def slider(
    shown: dict[Condition, dict[str, Shown]],
    images: Images,
    classes: Sequence[str],
    budgets: dict[str, Budgets],
    alt_text: str,
) -> Slider:
    """Make the figure.

    Args:
        shown: what ``single_image.shown_to_all`` returns; every attack at the same ε, in order.
        images: the clean ones.
        classes: their names.
        budgets: answers of the same networks, each attacked itself, at these ε at least.
        alt_text: what the figure shows.
    """
    attacks = list(dict.fromkeys(attack for attack, _ in shown))
    epsilons = list(dict.fromkeys(epsilon for _, epsilon in shown))
    networks = list(budgets)

    def everywhere(of: Callable[[Shown], object]) -> list[list[list[object]]]:
        return [[[of(shown[a, e][k]) for e in epsilons] for k in networks] for a in attacks]

    changes = everywhere(lambda found: (found.pixels - images.pixels).numpy())
    content = {
        "classes": list(classes),
        "attacks": [attack.upper() for attack in attacks],
        "networks": networks,
        "epsilons": [f"{256 * epsilon:g}/256" for epsilon in epsilons],
        "truth": images.labels.tolist(),
        "side": images.pixels.shape[-1],
        "clean": packed(images.pixels.numpy()),
        # bytes wrap around, here and in the script; at the next ε they hardly change: that packs
        "changes": packed(np.moveaxis(np.array(changes), 2, -1)),
        "answers": everywhere(lambda found: _answers(found, networks)),
        "accuracies": [
            [[accuracy(budgets[k], a, e) for e in epsilons] for k in networks] for a in attacks
        ],
        "count": len(budgets[networks[0]].labels),
    }
    strip = {epsilon: shown[attacks[-1], epsilon] for epsilon in epsilons}
    return Slider(content, _twin(strip, networks, classes), alt_text)


def packed(array: np.ndarray) -> str:
    """Bytes of an array for a page, uint8: deflated, in base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def accuracy(budgets: Budgets, attack: str, epsilon: float) -> str:
    """An accuracy in percent; a question mark says that the attacks on the network are doubted."""
    found = budgets.accuracy(attack, epsilon) if epsilon else budgets.accuracy()
    return percent(found) + (" ?" if budgets.doubts else "")


def _answers(shown: Shown, networks: Sequence[str]) -> list[list[list[int]]]:
    """Image by image, of every network: the class it answers, and how sure it is in percent."""
    told = [shown.answers[name] for name in networks]
    pairs = [torch.stack([label, (100 * sure).round().long()], 1) for label, sure in told]
    return torch.stack(pairs, 1).tolist()


def _twin(
    strip: dict[float, dict[str, Shown]], networks: Sequence[str], classes: Sequence[str]
) -> Figure:
    """The first image by ε, a row per network that is attacked, answered by that network."""
    rows, captions = {}, {}
    for name in networks:
        row = textwrap.fill(name, 16)
        told = [[part[0].item() for part in found[name].answers[name]] for found in strip.values()]
        rows[row] = [to_float(found[name].pixels)[0] for found in strip.values()]
        captions[row] = [
            f"ε = {256 * epsilon:g}/256\n{classes[label]}\n{sure:.0%}"
            for epsilon, (label, sure) in zip(strip, told, strict=True)
        ]
    return figures.attack_examples(rows, captions)
