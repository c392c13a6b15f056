"""Transfer strategies: which parts of a source network are retrained, by name.

The head is always replaced. A frozen part has no gradient in weights nor batch-norm scale and
shift; what happens to its batch-norm statistics is a policy of its own.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from robust_transfer.config import one_of
from robust_transfer.networks.states import load_state

STRATEGIES: dict[str, tuple[str, ...] | None] = {
    "head": ("head",),
    "stage3": ("stage3", "head"),
    "all": None,
}
"""Retrained parts per strategy (``None`` is every part); the paper's 1, 18 and 56 layers."""

FrozenBatchNorm = Literal["adapt", "freeze", "freeze_all"]
"""Frozen layers' running statistics ``adapt`` to the target data (paper A) or ``freeze``.

``freeze_all`` freezes every batch norm of a transfer, in retrained parts too: running statistics,
scale and shift (paper B, §III.F: "freezing batch normalization layers").
"""


def retrained(strategy: str, model: nn.Module) -> set[str]:
    """Names of the parameters that a strategy retrains.

    Raises:
        ValueError: unknown strategy, or a network without the parts that it names, or with
            parameters of which it cannot say whether they are retrained; or without a head.
    """
    chosen = STRATEGIES[one_of("strategy", strategy, STRATEGIES)]
    parts, names = [part for part, _ in model.named_children()], dict(model.named_parameters())
    for part in chosen or ("head",):
        if part not in parts:
            has = f"the network has {', '.join(parts)}"
            raise ValueError(f"strategy = {strategy!r}: it retrains {part}; {has}")
    if chosen is None:
        return set(names)
    if homeless := [name for name in names if "." not in name]:
        advice = "nothing says whether they are retrained; put them into one, or retrain all"
        belong = f"{', '.join(homeless)} of the network belong to no part"
        raise ValueError(f"strategy = {strategy!r}: {belong}, so {advice}")
    return {name for name in names if name.split(".")[0] in chosen}


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
        frozen_batch_norm: which batch norm ``train_mode`` leaves frozen; ``freeze_all`` freezes
            scale and shift of retrained batch norm too.

    Raises:
        ValueError: as ``retrained``.
    """
    chosen = retrained(strategy, model)
    for module in model.head.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # PyTorch's default, ±1/8 for 64 features (protocol §5)
    kept = {name: value for name, value in source_state.items() if not name.startswith("head.")}
    load_state(model, kept | {f"head.{k}": v for k, v in model.head.state_dict().items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    parts = STRATEGIES[strategy] or dict(model.named_children())
    for name, module in batch_norms(model).items():
        adapts = {"adapt": True, "freeze": name.split(".")[0] in parts, "freeze_all": False}
        module.frozen = not adapts[frozen_batch_norm]
        if frozen_batch_norm == "freeze_all":
            module.requires_grad_(False)
    return model


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """All batch-norm layers by name, of every kind, with or without weights.

    Instance norm is among them where it keeps running statistics.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, _NormBase)}
    return {n: m for n, m in found.items() if isinstance(m, _BatchNorm) or m.track_running_stats}


def trainable_weights(model: nn.Module) -> int:
    """Number of weights that training changes: 650, 648,074 or 853,018 on ResNet-56."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def train_mode(model: nn.Module) -> None:
    """Put the model in train mode, but for the batch norm that ``transplant`` has frozen."""
    model.train()
    for module in batch_norms(model).values():
        if getattr(module, "frozen", False):
            module.eval()  # the others are as the network's own ``train`` leaves them
