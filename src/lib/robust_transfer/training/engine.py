"""The speed of adversarial training: folded networks for attacks, replayed steps on a GPU.

An attack asks a fixed network again and again for the gradient with respect to its images, and for
nothing else. So batch norm can be folded into the convolutions once per attack, weights can be held
in bf16, no weight gradient is made, and ReLU and shortcut can ride on the convolutions, of oneDNN
on a CPU and of cuDNN on a GPU. A folded network maps images to logits like the network it was made
of, so attacks need not know of it.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from robust_transfer.networks.backbones import Backbone, Normalise
from robust_transfer.networks.cifar import BasicBlock, ResNet, pad_channels

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ATTACKED_PIXELS = 2**21
"""Pixels of a batch under attack at most, 2048 images of 32×32, 41 of 224×224."""


def batch_size(most: int, model: nn.Module, pixels: Tensor) -> int:
    """Images of a batch: ``most``, or as many as an attack on large ones leaves memory for.

    Args:
        most: images of a batch if they are small.
        model: the network; if it resizes images to ``model.size`` squared, that counts.
        pixels: the images, ``(N, 3, H, W)``.
    """
    side = getattr(model, "size", None)
    area = side**2 if side else pixels.shape[2:].numel()
    return max(1, min(most, ATTACKED_PIXELS // area))


def cores() -> int:
    """Cores that this process may use; in a container they can be fewer than the machine has."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, as far as there are cores; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, cores()) if count else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16; one that emulates it takes ten times as long as fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def folded(model: nn.Module, precision: Precision = "fp32") -> nn.Module:
    """The network as an attack should meet it: the fastest form that gives the same logits.

    Args:
        model: any network. A ``ResNet`` in eval mode is folded, with the weights and running
            statistics of this moment, and so are the sequences of a ``Backbone``; everything else
            is returned as it is, also a network of which anything was changed that its folded form
            does not know. What of a ``Backbone`` is not folded stays the network's own.
        precision: of the convolutions; logits are float32 in both. In bf16 a ``Backbone`` needs
            ``torch.autocast`` about it.

    Returns:
        A module from float images ``(N, 3, H, W)`` in [0, 1] to logits ``(N, classes)``, of which
        only gradients with respect to the images can be taken.
    """
    with torch.no_grad():
        if type(model) is Backbone and _runs_as_written(model):
            return _folded_backbone(model, DTYPES[precision])
        return FoldedResNet(model, DTYPES[precision]) if _is_plain(model) else model


def _folded_backbone(model: Backbone, dtype: torch.dtype) -> Backbone:
    """A copy with batch norm folded into every convolution that it follows in a sequence."""
    if not _pairs(model):
        return model
    same: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    same |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    copy = deepcopy(model, same)  # of the modules; weights stay where they are
    for sequence, index in _pairs(copy):
        sequence[index] = fuse_conv_bn_eval(*sequence[index : index + 2]).to(dtype)
        sequence[index + 1] = nn.Identity()
    return copy


def _pairs(model: Backbone) -> list[tuple[nn.Sequential, int]]:
    """The sequences and places where batch norm follows a convolution."""
    return [
        (sequence, index)
        for sequence in model.modules()
        if type(sequence) is nn.Sequential
        for index, (conv, bn) in enumerate(pairwise([*sequence]))
        if isinstance(conv, nn.Conv2d) and type(bn) is nn.BatchNorm2d and bn.track_running_stats
    ]


def _is_plain(model: nn.Module) -> bool:
    """Whether a network computes in eval mode what ``ResNet`` does, and nothing else."""
    if type(model) is not ResNet or not _runs_as_written(model):
        return False
    blocks = [*model.stage1, *model.stage2, *model.stage3]
    stages = {type(part) for part in (model.stem, model.stage1, model.stage2, model.stage3)}
    return (
        stages == {nn.Sequential}
        and {type(block) for block in blocks} == {BasicBlock}
        and [type(layer) for layer in model.stem] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        and type(model.normalise) is Normalise
        and type(model.head) is nn.Linear
        and model.head.bias is not None
        and _folds(model.stem[0], model.stem[1])
        and all(_folds(b.conv1, b.bn1) and _folds(b.conv2, b.bn2) for b in blocks)
    )


def _runs_as_written(model: nn.Module) -> bool:
    """Whether no hook, of one module or of all, changes what a network in eval mode computes."""
    watched = _global_forward_hooks or _global_forward_pre_hooks
    return not watched and all(_is_untouched(module) for module in model.modules())


def _is_untouched(module: nn.Module) -> bool:
    """Whether a module in eval mode runs the forward of its class: no hook, no replacement."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    hooks = hooks or module._backward_pre_hooks
    return not (module.training or hooks or "forward" in vars(module) or is_parametrized(module))


def _folds(conv: nn.Module, bn: nn.Module) -> bool:
    """Whether a batch norm is one that can be folded into the convolution before it."""
    return (
        type(conv) is nn.Conv2d
        and type(bn) is nn.BatchNorm2d
        and bn.running_mean is not None
        and bn.weight is not None
        and (conv.kernel_size, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and conv.stride in ((1, 1), (2, 2))
    )


class FoldedResNet(nn.Module):
    """A ``ResNet`` in eval mode with every batch norm folded into the convolution before it."""

    def __init__(self, model: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.normalise = dtype, model.normalise
        self.stem = FoldedConvolution(model.stem[0], model.stem[1], dtype)
        blocks = [*model.stage1, *model.stage2, *model.stage3]
        self.blocks = nn.ModuleList(FoldedBlock(block, dtype) for block in blocks)
        self.register_buffer("weight", model.head.weight.detach().clone().float())
        self.register_buffer("bias", model.head.bias.detach().clone().float())

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalise(images).to(self.dtype, memory_format=torch.channels_last)
        x = _Stem.apply(x, self.stem)
        for block in self.blocks:
            x = _Block.apply(x, block)
        with torch.autocast(images.device.type, enabled=False):
            return F.linear(x.float().mean((2, 3)), self.weight, self.bias)


class FoldedBlock(nn.Module):
    """The two convolutions of a ``BasicBlock``, and the channels its shortcut adds."""

    def __init__(self, block: BasicBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = FoldedConvolution(block.conv1, block.bn1, dtype)
        self.conv2 = FoldedConvolution(block.conv2, block.bn2, dtype)
        self.stride, self.extra = block.stride, block.extra


class FoldedConvolution(nn.Module):
    """3×3 convolution with folded batch norm, and its transpose for the way back."""

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        self.stride = conv.stride[0]
        self.register_buffer("weight", weight.to(dtype, memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        # with stride 1 the transpose is a convolution too, by the mirrored filters
        mirrored = self.weight.flip(2, 3).transpose(0, 1)
        self.register_buffer("mirrored", mirrored.contiguous(memory_format=torch.channels_last))

    def relu(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """``relu(convolution(x) + added)``."""
        if _one_dnn_takes(x):
            return _one_dnn(x, self.weight, self.bias, self.stride, added, "relu")
        if _cudnn_takes(x):
            geometry = ([self.stride] * 2, [1, 1], [1, 1], 1)  # stride, padding, dilation, groups
            if added is None:
                return torch.cudnn_convolution_relu(x, self.weight, self.bias, *geometry)
            return torch.cudnn_convolution_add_relu(x, self.weight, added, 1, self.bias, *geometry)
        out = F.conv2d(x, self.weight, self.bias, self.stride, padding=1)
        return (out if added is None else out.add_(added)).relu_()

    def transposed(self, gradient: Tensor, size: torch.Size, added: Tensor | None = None) -> Tensor:
        """Gradient with respect to the input of the convolution, of ``size``, plus ``added``."""
        if self.stride > 1:
            even = [(side + 1) % 2 for side in size[2:]]
            out = F.conv_transpose2d(gradient, self.weight, None, 2, padding=1, output_padding=even)
        elif _one_dnn_takes(gradient):
            return _one_dnn(gradient, self.mirrored, None, 1, added, "none")
        else:
            out = F.conv2d(gradient, self.mirrored, padding=1)
        return out if added is None else out.add_(added)


def _one_dnn_takes(x: Tensor) -> bool:
    """Whether oneDNN is here, on a processor whose instructions it needs for this precision."""
    here = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return here and (x.dtype == torch.float32 or has_bf16(x.device))


def _cudnn_takes(x: Tensor) -> bool:
    """Whether cuDNN is here, on a GPU that fuses bf16; images, of 3 channels, it does not take."""
    here = x.device.type == "cuda" and x.dtype == torch.bfloat16 and torch.version.cuda is not None
    return here and x.shape[1] % 8 == 0 and has_bf16(x.device)


def _one_dnn(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, added: Tensor | None, after: str
) -> Tensor:
    """3×3 convolution in one oneDNN call: the sum and the ReLU are done while it writes."""
    geometry = ([1, 1], [stride, stride], [1, 1], 1)  # padding, stride, dilation, groups
    convolution = torch.ops.mkldnn._convolution_pointwise
    if added is None:
        return convolution(x, weight, bias, *geometry, after, [], "")
    unary = None if after == "none" else after
    return convolution.binary(x, added, weight, bias, *geometry, "add", 1.0, unary, [], None)


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, stem: FoldedConvolution) -> Tensor:
        out = stem.relu(x)
        ctx.save_for_backward(out)
        ctx.stem = stem
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return ctx.stem.transposed(_through_relu(gradient, out), out.shape), None


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, block: FoldedBlock) -> Tensor:
        hidden = block.conv1.relu(x)
        out = block.conv2.relu(hidden, pad_channels(x, block.stride, block.extra))
        ctx.save_for_backward(hidden, out)
        ctx.block, ctx.size = block, x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        hidden, out = ctx.saved_tensors
        block = ctx.block
        gradient = _through_relu(gradient, out)
        inner = _through_relu(block.conv2.transposed(gradient, hidden.shape), hidden)
        if not block.extra:
            return block.conv1.transposed(inner, ctx.size, gradient), None
        below = block.conv1.transposed(inner, ctx.size)
        first = block.extra // 2  # the shortcut's channels lie between the padded ones
        kept = gradient[:, first : first + below.shape[1]]
        below[:, :, :: block.stride, :: block.stride] += kept
        return below, None


def _through_relu(gradient: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, out, 0)


class Replay:
    """A function of tensors recorded as one CUDA graph: one launch where there were thousands.

    The first calls run as they are, while libraries choose their algorithms and whatever the
    function keeps between calls comes to be; so does every batch of another shape, such as the
    last one of an epoch.
    """

    WARM_UP = 3

    def __init__(self, function: Callable[..., Tensor], generator: Generator) -> None:
        """Wrap ``function``; its random numbers come from ``generator``, on the GPU."""
        self.function, self.generator = function, generator
        self.calls, self.shape = 0, None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result; the next call overwrites it."""
        self.calls, self.shape = self.calls + 1, self.shape or inputs[0].shape
        if self.calls <= self.WARM_UP or inputs[0].shape != self.shape:
            return self.function(*inputs)
        if self.graph is None:
            self._record(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.output

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        gc.collect()  # graphs of networks trained before are in cycles; one must not end meanwhile
        self.inputs = [given.clone() for given in inputs]
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph):
            self.output = self.function(*self.inputs)
