"""Where a training stands, in one file, from which a killed one goes on to the same end.

The file of the epoch before stays beside it, for when the newer one is damaged.
"""

import hashlib
import json
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
    """Write one file: model, optimiser state of every weight, best state so far, history.

    The one of the epoch before is kept, see ``before``.
    """
    tensors = {f"model.{k}": v for k, v in state_of(model).items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors = {k: v.to("cpu").contiguous() for k, v in tensors.items()}
    metadata = {"identity": identity, "progress": json.dumps(asdict(progress))}
    metadata["threads"] = str(torch.get_num_threads())
    metadata["checksum"] = _checksum(tensors, metadata)
    write_atomically(path, safetensors.torch.save(tensors, metadata), before(path))


def load_checkpoint(
    path: Path, identity: str, model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], Progress] | None:
    """Put model and optimiser where a checkpoint stands; None if there is none that fits.

    A checkpoint of another configuration or other data is named and set aside.
    """
    if (found := _newest(path)) is None:
        return None
    metadata, tensors = found
    if metadata["identity"] != identity:
        for candidate in filter(Path.exists, (path, before(path))):
            set_aside(candidate, "it belongs to other settings or other data")
        return None
    load_state(model, _part(tensors, "model."))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": _slots(tensors, optimizer)})
    return _part(tensors, "best."), Progress(**json.loads(metadata["progress"]))


def _newest(path: Path) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Metadata and tensors of a checkpoint; of the one before if it is damaged and set aside."""
    for candidate in filter(Path.exists, (path, before(path))):
        try:
            with safetensors.safe_open(candidate, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.pop("checksum") != _checksum(tensors, metadata):
                raise ValueError("its checksum is not the one in it")
            return metadata, tensors
        except (safetensors.SafetensorError, KeyError, ValueError, AttributeError) as error:
            set_aside(candidate, str(error))
    return None


def before(path: Path) -> Path:
    """Where the checkpoint of the epoch before is."""
    return path.with_stem(f"{path.stem}-before")


def remove(path: Path) -> None:
    """Remove a checkpoint, and that of the epoch before."""
    path.unlink(missing_ok=True)
    before(path).unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over all that a checkpoint says."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _slots(tensors: dict[str, Tensor], optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """A checkpoint's optimiser state, by weight, laid out in memory as fused optimisers demand."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer.").items():
        index, slot = name.split(".")
        weight = weights[int(index)]
        if value.shape == weight.shape:
            value = torch.empty_like(weight).copy_(value)
        state.setdefault(int(index), {})[slot] = value
    return state


def threads(path: Path) -> int:
    """Number of threads that a checkpoint was computed with; 0 where there is none."""
    found = _newest(path)
    return int(found[0]["threads"]) if found else 0


def history(path: Path) -> list[dict]:
    """Rows of the epochs in a checkpoint, which is not checked; none where none can be read."""
    unreadable = OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError
    unreadable += (RuntimeError,)  # PyTorch's, of a file that a worker ends with meanwhile
    for candidate in (path, before(path)):
        with suppress(*unreadable), safetensors.safe_open(candidate, "pt") as file:
            return json.loads(file.metadata()["progress"])["history"]
    return []


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
