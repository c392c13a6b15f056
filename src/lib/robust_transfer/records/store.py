"""Run records: one folder per network, found by the hash of its configuration, or trained.

A folder holds ``record.json`` (configuration, provenance, checksums), ``history.csv`` and
``weights.safetensors``, one ``evaluation-….json`` per evaluation and one ``budgets-….json`` per
evaluation over budgets. Transfers store only what differs from their source, so frozen parts are
kept once.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

from robust_transfer.data.registry import DATASETS
from robust_transfer.files import (
    _seal,
    lock,
    pass_over,
    set_aside,
    sha256,
    write_atomically,
    write_sealed,
)
from robust_transfer.networks.registry import build
from robust_transfer.networks.states import load_state
from robust_transfer.records.provenance import provenance
from robust_transfer.training import engine
from robust_transfer.training.checkpoints import epochs_done, threads
from robust_transfer.training.loop import TrainingConfig, load_data, train


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round a state to what is stored: matrices and kernels in fp16, the rest as it is.

    Every published number is of these rounded weights. Batch-norm statistics stay in fp32.
    """
    large = {k for k, v in state.items() if v.is_floating_point() and v.ndim > 1}
    return {k: (v.half() if k in large else v).contiguous() for k, v in state.items()}


RECORD, HISTORY, WEIGHTS = "record.json", "history.csv", "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Record:
    """A finished training: its folder and what ``record.json`` says."""

    folder: Path
    content: dict

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: learning rate, loss, validation accuracies, seconds."""
        return pd.read_csv(self.folder / HISTORY)


class Store:
    """Folder of records, with an optional read-only layer of published ones beneath it.

    Args:
        root: where new records are written; made when needed.
        published: folder of finished records that are taken as they are, or None.
    """

    def __init__(self, root: Path | str, published: Path | str | None = None) -> None:
        self.root = Path(root)
        self.layers = [self.root] + ([Path(published)] if published else [])

    def folder(self, config: TrainingConfig) -> Path:
        """Where the record of ``config`` is written."""
        return self.root / folder_name(config)

    def find(self, config: TrainingConfig, weights: bool = False) -> Record | None:
        """The finished record of ``config``, or None; a damaged one is named and set aside.

        Args:
            config: the network.
            weights: pass over a record that was published for its numbers alone.
        """
        return next(self._find(config, weights), None)

    def lineage(self, config: TrainingConfig, weights: bool = False) -> list[Record]:
        """The finished record of ``config`` after those of what it was trained from; or []."""
        record = self.find(config, weights)
        return self._lineage(config, record, weights) if record else []

    def _lineage(self, config: TrainingConfig, record: Record, weights: bool) -> list[Record]:
        if config.source is None:
            return [record]
        source = self._source(config, record.content, weights)
        return [*self._lineage(config.source, source, weights), record]

    def _find(self, config: TrainingConfig, weights: bool) -> Iterator[Record]:
        for layer in self.layers:
            folder = layer / folder_name(config)
            content = self.read_sealed(folder / RECORD)
            if content is None or (weights and not (folder / WEIGHTS).exists()):
                continue
            if not self._whole(folder, content, config):
                continue
            if config.source is None or self._source(config, content, weights) is not None:
                yield Record(folder, content)

    def _source(self, config: TrainingConfig, content: dict, weights: bool) -> Record | None:
        """The source that a transfer's record names; one trained anew may lie above it."""
        sources = self._find(config.source, weights)
        return next((s for s in sources if s.content["sha256"][WEIGHTS] == content["source"]), None)

    def _whole(self, folder: Path, content: dict, config: TrainingConfig) -> bool:
        if TrainingConfig(**content["config"]) != config:
            self._reject(folder / RECORD, "its configuration is another one")
            return False
        for name, checksum in content["sha256"].items():
            path = folder / name
            if name == WEIGHTS and not path.exists() and not path.is_relative_to(self.root):
                continue  # published for its numbers alone
            if not path.exists():
                self._reject(folder / RECORD, f"{name} is missing")
                return False
            if sha256(path) != checksum:
                self._reject(path, "its checksum is not the one in the record")
                return False
        return True

    def read_sealed(self, path: Path) -> dict | None:
        """Read a sealed JSON record; None if there is none, or a damaged one, which is named."""
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            if content.pop("seal") != _seal(content):
                raise ValueError("its content was altered")
        except (ValueError, KeyError, AttributeError) as error:
            self._reject(path, f"not a whole record ({error})")
            return None
        return content

    def read_beside(self, config: TrainingConfig, name: str, expected: dict) -> dict | None:
        """A sealed record beside a network's that says what is ``expected``; None if there is none.

        Args:
            config: the network.
            name: the record's file.
            expected: fields that tie the record to weights, with their values.
        """
        for layer in self.layers:
            content = self.read_sealed(layer / folder_name(config) / name)
            if content is not None and expected.items() <= content.items():
                return content
        return None

    def beside(self, config: TrainingConfig, pattern: str) -> dict[str, dict]:
        """The sealed records beside a finished network's that speak of its weights, by file."""
        if (record := self.find(config)) is None:
            return {}
        found: dict[str, dict] = {}
        for layer in self.layers:
            for path in sorted((layer / folder_name(config)).glob(pattern)):
                content = self.read_sealed(path)
                if content and content["weights"] == record.content["sha256"][WEIGHTS]:
                    found.setdefault(path.name, content)
        return found

    def _reject(self, path: Path, reason: str) -> None:
        """Name a damaged file; set it aside where it is ours to write."""
        if path.is_relative_to(self.root):
            set_aside(path, reason)
        else:
            pass_over(path, reason)

    def get_or_train(
        self,
        config: TrainingConfig,
        data_dir: str,
        device: torch.device,
        on_epoch: Callable[[dict], None] = lambda row: None,
    ) -> Record:
        """Return the finished record of a network, or train it, its source first.

        A second process that asks for the same network waits for the first.
        """
        if (record := self.find(config, weights=True)) is not None:
            return record
        source_state = None
        if config.source is not None:
            self.get_or_train(config.source, data_dir, device)
            source_state = self.state(config.source)
        folder = self.folder(config)
        with lock(folder):
            if (record := self.find(config, weights=True)) is None:
                images = load_data(config, data_dir)
                checkpoint = folder / CHECKPOINT
                with engine.on_threads(threads(checkpoint)):  # other sums would round otherwise
                    done = train(config, images, device, checkpoint, source_state, on_epoch)
                    self._finish(config, *done, images, device, source_state)
                checkpoint.unlink(missing_ok=True)
                record = self.find(config)
        return record

    def _finish(self, config, best, progress, images, device, source_state) -> None:
        """Write weights and history, and last the record that vouches for them."""
        folder = self.folder(config)
        (folder / RECORD).unlink(missing_ok=True)  # an outdated one must not judge the new files
        weights = rounded(best)
        if source_state is not None:
            weights = {k: v for k, v in weights.items() if not same(v, source_state.get(k))}
        write_atomically(folder / WEIGHTS, safetensors.torch.save(weights))
        history = pd.DataFrame(progress.history)
        write_atomically(folder / HISTORY, history.to_csv(index=False).encode())
        selected = progress.history[progress.best_epoch]
        source = self.find(config.source, weights=True) if config.source else None
        content = {
            "hash": config.hash,
            "config": config.model_dump(mode="json"),
            "selected_epoch": progress.best_epoch,
            "validation": {k: selected[k] for k in ("natural", "adversarial")},
            "seconds": round(sum(row["seconds"] for row in progress.history), 3),
            "data": {"training": images[0].fingerprint, "validation": images[1].fingerprint},
            "source": source.content["sha256"][WEIGHTS] if source else None,
            "sha256": {name: sha256(folder / name) for name in (WEIGHTS, HISTORY)},
            "provenance": provenance(device),
        }
        write_sealed(folder / RECORD, content)

    def state(self, config: TrainingConfig) -> dict[str, Tensor]:
        """The published weights of a finished network, float32, on the CPU."""
        lineage = self.lineage(config, weights=True)
        if not lineage:
            where = self.folder(config)
            raise FileNotFoundError(f"{where}: no finished record of {config.name} with weights")
        return merged(lineage)

    def model(self, config: TrainingConfig, device: torch.device | str = "cpu") -> nn.Module:
        """The finished network in eval mode, with its published weights."""
        model = build(config.network, DATASETS[config.dataset].classes, config.seed)
        load_state(model, self.state(config))
        return model.eval().to(device)

    def epochs_done(self, config: TrainingConfig) -> int:
        """Epochs trained so far: all of a network with weights, else those of its checkpoint."""
        if self.find(config, weights=True) is not None:
            return config.epochs
        return epochs_done(self.folder(config) / CHECKPOINT)


def merged(lineage: list[Record]) -> dict[str, Tensor]:
    """Published weights, float32: of each record what it stores, over those before it."""
    state = {}
    for record in lineage:
        state |= safetensors.torch.load_file(record.folder / WEIGHTS)
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def folder_name(config: TrainingConfig) -> str:
    """Name of a network's folder: its id, its seed and its hash."""
    return f"{config.name}-s{config.seed}-{config.hash}"


def same(a: Tensor, b: Tensor | None) -> bool:
    """Whether a stored tensor equals, to the bit, what the source already holds."""
    return b is not None and a.shape == b.shape and torch.equal(a.to(b.dtype), b)
