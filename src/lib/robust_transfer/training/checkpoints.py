"""Files that survive a kill: atomic writes, checkpoints of a training, half-precision weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from robust_transfer.files import set_aside, write_atomically


@dataclass
class Progress:
    """What a checkpoint holds besides tensors: the epochs so far and the best of them."""

    history: list[dict[str, float | None]]
    best_epoch: int = -1
    best_score: float = float("-inf")


def save_checkpoint(
    path: Path,
    identity: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Write one file: model, optimiser state of every weight, best state so far, history."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors = {k: v.to("cpu").contiguous() for k, v in tensors.items()}
    metadata = {"identity": identity, "progress": json.dumps(asdict(progress))}
    metadata["threads"] = str(torch.get_num_threads())
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(
    path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], Progress] | None:
    """Put model and optimiser where a checkpoint stands; None if there is none that fits.

    A checkpoint of another configuration or other data, or a damaged one, is named and set aside.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            if file.metadata()["identity"] != identity:
                raise ValueError("it belongs to other settings or other data")
            progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        set_aside(path, str(error))
        return None
    model.load_state_dict(_part(tensors, "model."))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": _slots(tensors, optimizer)})
    return _part(tensors, "best."), progress


def _slots(
    tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """A checkpoint's optimiser state, by weight, laid out in memory as fused optimisers demand."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    momenta = _part(tensors, "momentum.")  # how checkpoints of SGD were once written
    found = {f"{index}.momentum_buffer": value for index, value in momenta.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in (found | _part(tensors, "optimizer.")).items():
        index, slot = name.split(".")
        weight = weights[int(index)]
        if value.shape == weight.shape:
            value = torch.empty_like(weight).copy_(value)
        state.setdefault(int(index), {})[slot] = value
    return state


def history(path: Path) -> list[dict]:
    """Rows of the epochs in a checkpoint; none where none can be read."""
    try:
        return [*json.loads(_metadata(path)["progress"])["history"]]
    except (KeyError, TypeError, ValueError):
        return []


def epochs_done(path: Path) -> int:
    """Number of epochs in a checkpoint; 0 where none can be read."""
    return len(history(path))


def threads(path: Path) -> int:
    """Number of threads that a checkpoint was computed with; 0 where none can be read."""
    try:
        return int(_metadata(path)["threads"])
    except (KeyError, ValueError):
        return 0


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
