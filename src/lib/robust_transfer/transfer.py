"""Transfer strategies: which parts of a source network are retrained, by name.

The head is always replaced. A frozen part has no gradient in weights nor batch-norm scale and
shift; what happens to its batch-norm statistics is a policy of its own.
"""

from typing import Literal

from torch import Tensor, nn

from robust_transfer.checks import one_of

STRATEGIES: dict[str, tuple[str, ...] | None] = {
    "head": ("head",),
    "stage3": ("stage3", "head"),
    "all": None,
}
"""Retrained parts per strategy (``None``: every part); the paper's 1, 18 and 56 layers."""

FrozenBatchNorm = Literal["adapt", "freeze"]
"""Frozen layers' running statistics ``adapt`` to the target data (paper A) or ``freeze``."""


def transplant(model: nn.Module, source_state: dict[str, Tensor], strategy: str) -> nn.Module:
    """Give ``model`` the source's weights but for a new head, and freeze what stays.

    Args:
        model: freshly built, with as many logits as the target has classes. Changed in place.
        source_state: the source's state, float tensors by name.
        strategy: a key of ``STRATEGIES``.

    Raises:
        ValueError: unknown strategy, or a network without the parts that it names.
    """
    one_of("strategy", strategy, STRATEGIES)
    model.head.reset_parameters()  # PyTorch's default, uniform ±1/8 for 64 features (protocol §5)
    kept = {name: value for name, value in source_state.items() if not name.startswith("head.")}
    model.load_state_dict(kept | {f"head.{k}": v for k, v in model.head.state_dict().items()})
    parts = STRATEGIES[strategy]
    if parts is not None:
        for part in parts:
            one_of(f"strategy {strategy}: retrained part", part, dict(model.named_children()))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in parts)
    return model


def trainable_weights(model: nn.Module) -> int:
    """Number of weights that training changes: 650, 648,074 or 853,018 on ResNet-56."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def train_mode(model: nn.Module, frozen_batch_norm: FrozenBatchNorm) -> None:
    """Put the model in train mode, frozen batch norm as the policy says."""
    model.train()
    if frozen_batch_norm == "freeze":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
