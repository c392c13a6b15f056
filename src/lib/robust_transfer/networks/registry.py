"""All networks by name; every one takes images in [0, 1] and normalises them itself."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import nn

from robust_transfer.config import one_of
from robust_transfer.networks import backbones
from robust_transfer.networks.cifar import DenseNet, ResNet

torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, on a GPU too


PRETRAINED: dict[str, Callable[[int], nn.Module]] = {
    name: partial(backbones.imagenet, name, pretrained=True) for name in backbones.IMAGENET
}
"""Networks with published ImageNet weights, by name: number of classes to network."""

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet8": lambda classes: ResNet(8, classes, width=8),
    "resnet20": lambda classes: ResNet(20, classes),
    "resnet32": lambda classes: ResNet(32, classes),
    "resnet56": lambda classes: ResNet(56, classes),
    "densenet14": lambda classes: DenseNet((2, 2, 1), 8, classes),
    "densenet121": lambda classes: DenseNet((6, 12, 24, 16), 12, classes),
    "densenet40": backbones.densenet40,
    "vit6": backbones.vit6,
    **{name: partial(backbones.imagenet, name) for name in backbones.IMAGENET},
}
"""All networks by name: number of classes to freshly initialised network."""


def _known(name: str) -> str:
    one_of("network", name, NETWORKS)
    return name


NetworkName = Annotated[str, AfterValidator(_known)]
"""Type of a configuration's field that names a network."""


def build(name: str, classes: int, seed: int, pretrained: bool = False) -> nn.Module:
    """Build a network, the same for the same seed.

    Args:
        name: a key of ``NETWORKS``.
        classes: number of logits.
        seed: seed of the initial weights; torch's global generator is left as it was.
        pretrained: all but the head has published ImageNet weights, see ``backbones.imagenet``;
            for the networks of ``PRETRAINED``.

    Raises:
        ValueError: unknown ``name``, or one without published weights.
        OSError: published weights that can neither be downloaded nor read.
    """
    what, known = ("pretrained network", PRETRAINED) if pretrained else ("network", NETWORKS)
    one_of(what, name, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return known[name](classes).to(memory_format=torch.channels_last)


def parts(name: str) -> tuple[str, ...]:
    """Names of a network's parts, from images to logits; no weights are drawn for it.

    Raises:
        ValueError: ``name`` is not a key of ``NETWORKS``.
    """
    return tuple(part for part, _ in _outline(name).named_children())


def has_batch_norm(name: str) -> bool:
    """Whether a network has batch norm; a transformer has none.

    Raises:
        ValueError: ``name`` is not a key of ``NETWORKS``.
    """
    return any(isinstance(module, nn.BatchNorm2d) for module in _outline(name).modules())


def _outline(name: str) -> nn.Module:
    """The network without memory for its weights."""
    return _built(NETWORKS[_known(name)])


@lru_cache
def _built(network: Callable[[int], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return network(1)
