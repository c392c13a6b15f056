"""All networks by name; every one takes images in [0, 1] and normalises them itself."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from robust_transfer.config import one_of
from robust_transfer.networks import backbones
from robust_transfer.networks.cifar import DenseNet, ResNet
from robust_transfer.networks.transfer import batch_norms, retrained

torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, on a GPU too


OURS = (ResNet, DenseNet, backbones.Backbone)
"""Networks that compute with channels last, side by side in memory, whatever they are given."""

PRETRAINED: dict[str, Callable[[int], nn.Module]] = {
    **{n: partial(backbones.imagenet, n, pretrained=True) for n in backbones.IMAGENET},
    "imagenet_efficientnet_lite0": partial(backbones.efficientnet_lite0, pretrained=True),
}
"""Networks with published ImageNet weights, by name, from number of classes to network."""

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
    "imagenet_efficientnet_lite0": backbones.efficientnet_lite0,
}
"""All networks by name, from number of classes to freshly initialised network."""


NetworkName = Annotated[str, AfterValidator(partial(one_of, "network", allowed=NETWORKS))]
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
    network = known[one_of(what, name, known)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(classes)
    if type(model) in OURS:  # another's forward may rely on the layout that PyTorch begins with
        model = model.to(memory_format=torch.channels_last)
    return model


def outline(name: str) -> nn.Module:
    """The network without its weights, where its constructor allows it, to ask for its parts.

    Raises:
        ValueError: ``name`` is not a key of ``NETWORKS``.
    """
    return _outline(NETWORKS[one_of("network", name, NETWORKS)])


@lru_cache
def _outline(network: Callable[[int], nn.Module]) -> nn.Module:
    return _without_values(lambda: network(1))


def _without_values(make: Callable[[], Any]) -> Any:
    """What is made of tensors that have a shape alone, or else of such as have values too."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make()
        except Exception:  # what computes, or looks at values, needs them
            with torch.device("cpu"):
                return make()


def has_batch_norm(name: str) -> bool:
    """Whether a network has batch norm; a transformer has none.

    Raises:
        ValueError: ``name`` is not a key of ``NETWORKS``.
    """
    return bool(batch_norms(outline(name)))


def is_own(name: str) -> bool:
    """Whether a network is one that a user made known."""
    made_by = getattr(NETWORKS[name], "func", NETWORKS[name])
    return getattr(made_by, "__module__", "").split(".")[0] != __name__.split(".")[0]


def own_fingerprint(name: str, classes: int, side: int) -> str:
    """What tells a network of one's own from another by the same name; "" for the library's.

    A hash of its weights' names and shapes, and of what it answers when it is new.
    """
    if not is_own(name):
        return ""
    model = build(name, classes, seed=0).eval()
    images = torch.linspace(0, 1, 3 * side**2).view(1, 3, side, side)
    with torch.no_grad():
        answers = [f"{value:.3g}" for value in model(images).flatten().tolist()]
    known = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    return hashlib.sha256(repr((known, answers)).encode()).hexdigest()


def check_answers(name: str, side: int) -> None:
    """Raise ValueError unless a network answers images of ``side`` squared with logits.

    Of the library's own, those that resize images themselves do, and are not asked: they are large.
    """
    network = NETWORKS[one_of("network", name, NETWORKS)]
    if not is_own(name) and getattr(outline(name), "size", None):
        return
    if found := _wrong_answer(network, side):
        raise ValueError(f"network = {name!r}: {found}")


@lru_cache
def _wrong_answer(network: Callable[[int], nn.Module], side: int) -> str:
    """What is wrong with a network's answer to three images of two classes; empty if nothing is."""
    try:  # with values: to compute without any, PyTorch loads its compiler, which takes longer
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model = network(2).eval()
            wrong_weights = _wrong_weights(model)
            given = model(torch.zeros(3, 3, side, side))
    except Exception as error:
        return f"it cannot take images (N, 3, {side}, {side}): {' '.join(str(error).split())}"
    shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
    if shape == (3, 2):
        return wrong_weights
    return f"of 3 images and 2 classes it makes {shape}; allowed are logits, one (N, classes)"


def _wrong_weights(model: nn.Module) -> str:
    """What is wrong with the weights of a network that has answered nothing yet; "" if nothing."""
    weights = dict(model.named_parameters())
    if not weights:
        return "it has no weights; allowed is a network to train"
    lazy = [name for name, value in weights.items() if isinstance(value, UninitializedParameter)]
    return f"{lazy[0]} has no shape yet; allowed are weights with shapes" if lazy else ""


def check_parts(name: str, strategy: str) -> None:
    """Raise ValueError unless a strategy knows what of a network it retrains.

    It must have the parts that are named, and its head alone may depend on the number of classes.
    """
    _check_strategy(NETWORKS[name], strategy)
    if others := _depending(NETWORKS[name]):
        said = f"{others[0]} depends on the number of classes"
        raise ValueError(f"network = {name!r}: {said}; allowed is that in the head alone")


@lru_cache  # a study asks this thousands of times
def _check_strategy(network: Callable[[int], nn.Module], strategy: str) -> None:
    retrained(strategy, _outline(network))


@lru_cache
def _depending(network: Callable[[int], nn.Module]) -> list[str]:
    """What outside the head has another shape for another number of classes."""
    one, two = (_without_values(lambda n=n: network(n)).state_dict() for n in (1, 2))
    differ = [key for key in one if key not in two or one[key].shape != two[key].shape]
    return [key for key in differ if not key.startswith("head.")]
