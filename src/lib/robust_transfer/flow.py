"""Where fine-tuning pulls and what it moves, part by part: the case for freezing layers (paper B).

Paper B froze layers by "gradient flow and feature representation stability" (§III.C), without a
number. Here are two: the gradient that meets each part before fine-tuning, and how far it has
moved after.
"""

import pandas as pd
import torch
from torch import Tensor

from robust_transfer import records
from robust_transfer.evaluation import weights_of
from robust_transfer.training import TrainingConfig, initial_model, load_data
from robust_transfer.transfer import gradient_flow

IMAGES = 256
"""Training images on which the gradient is taken."""


def get_or_measure(
    store: records.Store, network: TrainingConfig, data_dir: str, device: torch.device
) -> pd.DataFrame:
    """Return the stored flow of a finished transfer, or measure and store it.

    Args:
        store: where the network is.
        network: a transfer of every layer.
        data_dir: see ``data.load``.
        device: where to compute.

    Returns:
        A row per part with weights, from images to logits: ``gradient`` is ``‖∂J/∂θ‖ / ‖θ‖`` under
        the new head, before the first step; ``moved`` is ``‖θ − θ₀‖ / ‖θ₀‖`` after the last.

    Raises:
        FileNotFoundError: no weights of network or source, or no images.
    """
    weights = weights_of(store, network)
    expected = {"source": store.find(network).content["source"], "weights": weights}
    if (content := store.read_beside(network, NAME, expected)) is None:
        state = store.state(network)
        *source, _ = store.lineage(network, weights=True)
        begin = initial_model(network, records.merged(source) if source else None)
        before = {name: p.detach().clone() for name, p in begin.named_parameters()}
        images, _ = load_data(network, data_dir)
        pixels, labels = next(images.first(IMAGES).to(device).batches(IMAGES))
        flow = gradient_flow(begin.to(device), pixels, labels)
        content = expected | {
            "gradient": flow,
            "moved": {part: _moved(before, state, part) for part in flow},
            "provenance": records.provenance(device),
        }
        records.write_sealed(store.folder(network) / NAME, content)
    return pd.DataFrame({name: content[name] for name in ("gradient", "moved")})


NAME = "flow.json"


def _moved(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> float:
    names = [name for name in before if name.split(".")[0] == part]
    ends = (torch.cat([state[name].flatten() for name in names]) for state in (before, after))
    start, end = ends
    return ((end - start).norm() / start.norm()).item()
