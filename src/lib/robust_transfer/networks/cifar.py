"""All networks by name, and those of paper A: CIFAR ResNets and the DenseNet-BC surrogate.

Every network takes images in [0, 1] and normalises them itself, so any attack library can be
pointed at it. The parts a transfer strategy speaks of are named: ``stem``, ``stage1``, …, ``head``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_transfer.networks.backbones import Normalise, channels_last


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut without weights (He et al. 2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.extra = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu_()
        out = self.bn2(self.conv2(out))
        return out.add_(pad_channels(x, self.stride, self.extra)).relu_()


def pad_channels(x: Tensor, stride: int, extra: int) -> Tensor:
    """Shortcut without weights: subsample, and pad ``extra`` zero channels on both sides."""
    if not extra:
        return x
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, extra // 2, extra - extra // 2))


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6n + 2: three stages of n blocks (He et al. 2016, §4.2).

    Input float ``(N, 3, H, W)`` in [0, 1]; output logits ``(N, classes)``. With depth 56, width 16
    and 10 classes it has 853,018 weights.
    """

    def __init__(self, depth: int, classes: int, width: int = 16) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.normalise = Normalise()
        conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = self._stage(width, width, blocks, stride=1)
        self.stage2 = self._stage(width, 2 * width, blocks, stride=2)
        self.stage3 = self._stage(2 * width, 4 * width, blocks, stride=2)
        self.head = nn.Linear(4 * width, classes)
        initialise(self)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(self.normalise(channels_last(images)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """Bottleneck layer of DenseNet-BC: 1×1 to 4k channels, 3×3 to k, concatenated to its input."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu_())
        out = self.conv2(self.bn2(out).relu_())
        return torch.cat([out, x], 1)


class DenseNet(nn.Module):
    """CIFAR DenseNet-BC: 3×3 stem, compression 0.5 between blocks (Huang et al. 2017).

    Input float ``(N, 3, H, W)`` in [0, 1]; output logits ``(N, classes)``. With blocks 6/12/24/16,
    growth 12 and 10 classes it has 1,000,618 weights: the "DenseNet 121" of paper A.
    """

    def __init__(self, blocks: tuple[int, ...], growth: int, classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.normalise = Normalise()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for index, layers in enumerate(blocks):
            stages += [DenseLayer(channels + i * growth, growth) for i in range(layers)]
            channels += layers * growth
            if index < len(blocks) - 1:
                stages.append(self._transition(channels, channels // 2))
                channels //= 2
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)
        initialise(self)

    @staticmethod
    def _transition(channels_in: int, channels: int) -> nn.Sequential:
        conv = nn.Conv2d(channels_in, channels, 1, bias=False)
        return nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(), conv, nn.AvgPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(self.stem(self.normalise(channels_last(images))))
        return self.head(self.bn(x).relu_().mean((2, 3)))


def initialise(model: nn.Module) -> None:
    """Draw convolution and linear weights Kaiming-normal, in place (protocol §1).

    What has a shape alone is left as it is: there PyTorch would load its compiler to draw nothing.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight)
