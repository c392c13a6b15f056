"""Where fine-tuning pulls and what it moves, part by part: the case for freezing layers (paper B).

Paper B froze layers by "gradient flow and feature representation stability" (§III.C), without a
number. Here are two: the gradient that meets each part before fine-tuning, and how far it has
moved after.
"""

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from robust_transfer.attacks import image_batch, in_mode, loss_of
from robust_transfer.records.store import Store, merged
from robust_transfer.training.engine import batch_size
from robust_transfer.training.loop import TrainingConfig, initial_model, load_data

IMAGES = 256
"""Training images on which the gradient is taken; of large ones fewer."""
NAME = "flow.json"
"""File beside a network's record that holds what was measured."""


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
    return _relative(dict(zip(weights, gradients, strict=True)), weights)


def _relative(changes: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, float]:
    """Length of what changes each part's weights, as a share of their own."""

    def norm(tensors: dict[str, Tensor], part: str) -> Tensor:
        return nn.utils.get_total_norm(v for k, v in tensors.items() if k.split(".")[0] == part)

    parts = dict.fromkeys(name.split(".")[0] for name in weights)
    return {part: (norm(changes, part) / norm(weights, part)).item() for part in parts}


def get_or_measure(
    store: Store, network: TrainingConfig, data_dir: str, device: torch.device
) -> pd.DataFrame:
    """Return the stored flow of a finished transfer, or measure and store it.

    Args:
        store: where the network is.
        network: a transfer of every layer.
        data_dir: see ``data.registry.load``.
        device: where to compute.

    Returns:
        A row per part with weights, from images to logits: ``gradient`` is ``‖∂J/∂θ‖ / ‖θ‖`` under
        the new head, before the first step; ``moved`` is ``‖θ − θ₀‖ / ‖θ₀‖`` after the last.

    Raises:
        FileNotFoundError: no weights of network or source, or no images.
    """
    record = store.require(network)
    expected = {"source": record.source, "weights": record.checksum}

    def compute() -> dict:
        state = store.state(network)
        *source, _ = store.lineage(network, weights=True)
        begin = initial_model(network, merged(source) if source else None)
        before = {name: p.detach().clone() for name, p in begin.named_parameters()}
        images, _ = load_data(network, data_dir)
        count = batch_size(IMAGES, begin, images.pixels)
        pixels, labels = next(images.first(count).to(device).batches(count))
        flow = gradient_flow(begin.to(device), pixels, labels)
        moves = {name: state[name] - start for name, start in before.items()}
        return expected | {"gradient": flow, "moved": _relative(moves, before)}

    def find() -> dict | None:
        return store.read_beside(network, NAME, expected)

    content = store.get_or_compute(network, NAME, find, compute, device)
    return pd.DataFrame({name: content[name] for name in ("gradient", "moved")})
