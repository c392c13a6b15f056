"""Transfer strategies: which parts of a source network are retrained, by name.

The head is always replaced. A frozen part has no gradient in weights nor batch-norm scale and
shift; what happens to its batch-norm statistics is a policy of its own.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robust_transfer.attacks import in_mode, loss_of
from robust_transfer.checks import image_batch, one_of

STRATEGIES: dict[str, tuple[str, ...] | None] = {
    "head": ("head",),
    "stage3": ("stage3", "head"),
    "all": None,
}
"""Retrained parts per strategy (``None``: every part); the paper's 1, 18 and 56 layers."""

FrozenBatchNorm = Literal["adapt", "freeze", "freeze_all"]
"""Frozen layers' running statistics ``adapt`` to the target data (paper A) or ``freeze``.

``freeze_all`` freezes every batch norm of a transfer, in retrained parts too: running statistics,
scale and shift (paper B, §III.F: "freezing batch normalization layers").
"""


def retrained(strategy: str, parts: Collection[str]) -> Collection[str]:
    """The parts that a strategy retrains, out of all ``parts`` of a network.

    Raises:
        ValueError: unknown strategy, or a network without the parts that it names.
    """
    one_of("strategy", strategy, STRATEGIES)
    chosen = STRATEGIES[strategy] or parts
    for part in chosen:
        if part not in parts:
            raise ValueError(
                f"strategy = {strategy!r}: it retrains {part}; the network has {', '.join(parts)}"
            )
    return chosen


def transplant(
    model: nn.Module,
    source_state: dict[str, Tensor],
    strategy: str,
    frozen_batch_norm: FrozenBatchNorm = "adapt",
) -> nn.Module:
    """Give ``model`` the source's weights but for a new head, and freeze what stays.

    Args:
        model: freshly built, with as many logits as the target has classes. Changed in place.
        source_state: the source's state, float tensors by name.
        strategy: a key of ``STRATEGIES``.
        frozen_batch_norm: ``freeze_all`` freezes scale and shift of retrained batch norm too.

    Raises:
        ValueError: unknown strategy, or a network without the parts that it names.
    """
    parts = retrained(strategy, dict(model.named_children()))
    model.head.reset_parameters()  # PyTorch's default, uniform ±1/8 for 64 features (protocol §5)
    kept = {name: value for name, value in source_state.items() if not name.startswith("head.")}
    model.load_state_dict(kept | {f"head.{k}": v for k, v in model.head.state_dict().items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in parts)
    if frozen_batch_norm == "freeze_all":
        for module in batch_norms(model):
            module.requires_grad_(False)
    return model


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """All batch-norm layers of a network."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def trainable_weights(model: nn.Module) -> int:
    """Number of weights that training changes: 650, 648,074 or 853,018 on ResNet-56."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def train_mode(model: nn.Module, frozen_batch_norm: FrozenBatchNorm) -> None:
    """Put the model in train mode, frozen batch norm as the policy says."""
    model.train()
    if frozen_batch_norm != "adapt":
        for module in batch_norms(model):
            if not module.weight.requires_grad:
                module.eval()


def gradient_flow(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """How strongly the loss on a batch pulls at each part of a network.

    ``‖∂J/∂θ‖ / ‖θ‖`` with J the mean cross-entropy and θ all weights of a part, frozen or not: the
    relative length of a gradient step at learning rate 1. A part with a small value is already
    near to what the batch asks for, or the gradient does not reach it; freezing it costs least.
    Paper B chose the layers to freeze by "gradient flow" (§III.C) without a definition; this is
    ours.

    Args:
        model: in eval mode for the duration; weights, gradients, modes and running statistics
            are left as found.
        images: float ``(N, 3, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.

    Returns:
        The ratio of every part that has weights, from images to logits.

    Raises:
        ValueError: images or labels of the wrong shape, type or range.
    """
    image_batch(images, labels)
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    with in_mode(model, "eval"), torch.enable_grad():
        loss = loss_of(functional_call(model, weights, (images,)), labels, "mean")
    gradients = torch.autograd.grad(loss, list(weights.values()))
    pulled = dict(zip(weights, gradients, strict=True))

    def norm(tensors: dict[str, Tensor], part: str) -> Tensor:
        return nn.utils.get_total_norm(v for k, v in tensors.items() if k.split(".")[0] == part)

    parts = dict.fromkeys(name.split(".")[0] for name in weights)
    return {part: (norm(pulled, part) / norm(weights, part)).item() for part in parts}
