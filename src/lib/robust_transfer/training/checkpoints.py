"""Where a training stands, in one file, from which a killed one goes on to the same end."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robust_transfer.files import set_aside, write_atomically
from robust_transfer.networks.states import load_state, state_of


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
    optimizer: Optimizer,
    best: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Write one file: model, optimiser state of every weight, best state so far, history."""
    tensors = {f"model.{k}": v for k, v in state_of(model).items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors = {k: v.to("cpu").contiguous() for k, v in tensors.items()}
    metadata = {"identity": identity, "progress": json.dumps(asdict(progress))}
    metadata["threads"] = str(torch.get_num_threads())
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(
    path: Path, identity: str, model: nn.Module, optimizer: Optimizer
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
    load_state(model, _part(tensors, "model."))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": _slots(tensors, optimizer)})
    return _part(tensors, "best."), progress


def _slots(tensors: dict[str, Tensor], optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
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
    return _told(path, lambda metadata: json.loads(metadata["progress"])["history"], [])


def threads(path: Path) -> int:
    """Number of threads that a checkpoint was computed with; 0 where none can be read."""
    return _told(path, lambda metadata: int(metadata["threads"]), 0)


def _told(path: Path, read: Callable[[dict[str, str]], object], nothing: object) -> object:
    unreadable = OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError
    unreadable += (RuntimeError,)  # PyTorch's, of a file that a worker ends with meanwhile
    with suppress(*unreadable), safetensors.safe_open(path, "pt") as file:
        return read(file.metadata())
    return nothing


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
