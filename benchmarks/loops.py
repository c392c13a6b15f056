"""What the engine is held against: the loops of a textbook, and bare convolutions."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robust_transfer.attacks import PGD
from robust_transfer.networks.cifar import ResNet


def attack_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    autocast: bool = False,
    weight_gradients: bool = False,
) -> Tensor:
    """PGD as a textbook has it, on a network in eval mode; returns adversarial images.

    Args:
        model: whom to attack.
        images: float ``(N, 3, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        attack: budget, steps and their size.
        autocast: run convolutions in bf16.
        weight_gradients: call ``loss.backward()``, which makes the gradients of the weights too.
    """
    epsilon = attack.threat_model.epsilon
    adversarial = images
    for _ in range(attack.steps):
        adversarial = adversarial.detach().requires_grad_(True)
        loss = cross_entropy(model, adversarial, labels, autocast)
        if weight_gradients:
            model.zero_grad()
            loss.backward()
            gradient = adversarial.grad
        else:
            (gradient,) = torch.autograd.grad(loss, adversarial)
        moved = adversarial.detach() + attack.step_size * gradient.sign()
        adversarial = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


def train_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    autocast: bool = False,
) -> Tensor:
    """One step of adversarial training, half clean and half adversarial; returns the loss."""
    optimizer.zero_grad()
    clean = 0.5 * cross_entropy(model.train(), images, labels, autocast)
    clean.backward()
    examples = attack_batch(model.eval(), images, labels, attack, autocast)
    adversarial = 0.5 * cross_entropy(model.train(), examples, labels, autocast)
    adversarial.backward()
    optimizer.step()
    return (clean + adversarial).detach()


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor, autocast: bool) -> Tensor:
    """Mean loss of a batch, convolutions in bf16 if wanted."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        return F.cross_entropy(model(images).float(), labels)


def fold_batch_norm(model: ResNet) -> ResNet:
    """Put PyTorch's own folded convolutions in place of batch norm, in place; nothing is fused."""
    model.stem[0], model.stem[1] = fuse_conv_bn_eval(model.stem[0], model.stem[1]), nn.Identity()
    for block in [*model.stage1, *model.stage2, *model.stage3]:
        block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
    return model


class Convolutions:
    """The convolutions of a network on a batch and nothing else: what they alone would allow.

    Attributes:
        forward_gflop: operations of one forward pass of an image, a multiplication and an addition
            counting two.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
        shapes: Counter[tuple] = Counter()

        def note(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
            geometry = (conv.stride, conv.padding, conv.dilation)
            shapes[inputs[0].shape, conv.weight.shape, output.shape, geometry] += 1

        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        hooks = [conv.register_forward_hook(note) for conv in convolutions]
        with torch.no_grad():
            model(images)
        for hook in hooks:
            hook.remove()

        def draw(shape: torch.Size) -> Tensor:
            drawn = torch.randn(shape, device=images.device)
            return drawn.to(dtype, memory_format=torch.channels_last)

        self.calls = [
            (draw(x), draw(weight), draw(output), geometry, count)
            for (x, weight, output, geometry), count in shapes.items()
        ]
        operations = [2 * w[0].numel() * y[0].numel() * n for _, w, y, _, n in self.calls]
        self.forward_gflop = sum(operations) / 1e9

    @torch.no_grad()
    def __call__(self, attack_passes: int, training_passes: int = 0) -> None:
        """Run passes forward and back: to the images in an attack, to the weights too in training.

        One shape after the other, so what a pass leaves in the cache serves the next: no order of
        a real network could do better.
        """
        for x, weight, gradient, (stride, padding, dilation), count in self.calls:
            for number in range(count * (attack_passes + training_passes)):
                F.conv2d(x, weight, None, stride, padding, dilation)
                wanted = [True, number < count * training_passes, False]
                torch.ops.aten.convolution_backward(
                    gradient, x, weight, None, stride, padding, dilation, False, [0, 0], 1, wanted
                )
