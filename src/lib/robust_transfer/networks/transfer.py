"""Transfer strategies: which parts of a source network are retrained, by name.

The head is always replaced. A frozen part has no gradient in weights nor batch-norm scale and
shift; what happens to its batch-norm statistics is a policy of its own.
"""

from collections.abc import Collection
from typing import Literal

from torch import Tensor, nn

from robust_transfer.config import one_of

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
