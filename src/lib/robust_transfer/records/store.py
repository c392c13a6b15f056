"""Run records: one folder per network, found by the hash of its configuration, or trained.

A folder holds ``record.json`` (configuration, provenance, checksums), ``history.csv`` and
``weights.safetensors``, one ``evaluation-….json`` per evaluation and one ``budgets-….json`` per
evaluation over budgets. Transfers store only what differs from their source, so frozen parts are
kept once.

Of two processes that make the same record the second waits for the first. Where it cannot know,
because a network file system does not pass on their locks, both make it, and a record vouches for
what its own process has written: if the other has written over that since, it is made anew.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
import safetensors.torch
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from robust_transfer import files
from robust_transfer.config import one_line
from robust_transfer.data.registry import DATASETS
from robust_transfer.networks.registry import build
from robust_transfer.networks.states import load_state
from robust_transfer.records.provenance import provenance
from robust_transfer.training import engine
from robust_transfer.training.checkpoints import history, remove, threads
from robust_transfer.training.loop import (
    OnEpoch,
    TrainingConfig,
    fingerprints,
    images_at_hand,
    load_data,
    quiet,
    train,
)

RECORD, HISTORY, WEIGHTS = "record.json", "history.csv", "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"


class Record(BaseModel, frozen=True):
    """A finished training: what ``record.json`` says, and the folder that it lies in.

    Attributes:
        hash, config: of the network.
        selected_epoch: the epoch whose weights are kept, from 0.
        validation: accuracies in it, in [0, 1]: ``natural``, and ``adversarial`` or None.
        seconds: of all epochs.
        data: fingerprints of the ``training`` and the ``validation`` images, and of a ``network``
            of one's own.
        source: checksum of the weights that the training began with; None for noise.
        sha256: of the files beside, by name.
        provenance: see ``records.provenance``.
    """

    hash: str
    config: TrainingConfig
    selected_epoch: int
    validation: dict[str, float | None]
    seconds: float
    data: dict[str, str]
    source: str | None
    sha256: dict[Literal[WEIGHTS, HISTORY], str]
    provenance: dict[str, str | int]
    folder: Path = Field(exclude=True)

    @property
    def checksum(self) -> str:
        """SHA-256 of the published weights, whether or not they were published too."""
        return self.sha256[WEIGHTS]

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, with learning rate, loss, validation accuracies, seconds."""
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

    def require(self, config: TrainingConfig) -> Record:
        """The finished record of ``config``.

        Raises:
            FileNotFoundError: there is none.
        """
        if (record := self.find(config)) is None:
            raise FileNotFoundError(f"{self.folder(config)}: no finished record of {config.name}")
        return record

    def lineage(self, config: TrainingConfig, weights: bool = False) -> list[Record]:
        """The finished record of ``config`` after those of what it was trained from; or []."""
        record = self.find(config, weights)
        found = [record] if record else []
        while found and found[0].config.source is not None:
            found.insert(0, self._source(found[0], weights))
        return found

    def _find(self, config: TrainingConfig, weights: bool) -> Iterator[Record]:
        for folder in self._folders(config):
            content = self.read_sealed(folder / RECORD)
            if content is None or (weights and not (folder / WEIGHTS).exists()):
                continue
            try:
                record = Record(folder=folder, **content)
            except ValidationError as error:  # not damaged: of a later version, it may be
                raise ValueError(f"{folder / RECORD}: {one_line(Record, error)}") from None
            if flaw := self._flaw(record, config):
                self._reject(*flaw)
            elif config.source is None or self._source(record, weights) is not None:
                yield record

    def _folders(self, config: TrainingConfig) -> list[Path]:
        return [layer / folder_name(config) for layer in self.layers]

    def _source(self, record: Record, weights: bool) -> Record | None:
        """The source that a transfer's record names; one trained anew may lie above it."""
        sources = self._find(record.config.source, weights)
        return next((source for source in sources if source.checksum == record.source), None)

    def _flaw(self, record: Record, config: TrainingConfig) -> tuple[Path, str] | None:
        """Which file of a record is not as it should be, and why; None if all are."""
        if record.config != config or record.hash != config.hash:
            return record.folder / RECORD, "its configuration is another one"
        for name, checksum in record.sha256.items():
            path = record.folder / name
            if path.exists():
                if files.sha256(path) != checksum:
                    return path, "its checksum is not the one in the record"
            elif name != WEIGHTS:  # which may be left out
                return record.folder / RECORD, f"{name} is missing"
        return None

    def read_sealed(self, path: Path) -> dict | None:
        """Read a sealed JSON record; None if there is none, or a damaged one, which is named."""
        try:
            return files.read_sealed(path)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, AttributeError) as error:
            self._reject(path, f"not a whole record ({error})")
            return None

    def _reject(self, path: Path, reason: str) -> None:
        """Name a damaged file; set it aside where it is ours to write."""
        reject = files.set_aside if path.is_relative_to(self.root) else files.pass_over
        reject(path, reason)

    def read_beside(self, config: TrainingConfig, name: str, expected: dict) -> dict | None:
        """A sealed record beside a network's that says what is ``expected``; None if there is none.

        Args:
            config: the network.
            name: the record's file.
            expected: fields that tie the record to weights, with their values.
        """
        found = (self.read_sealed(folder / name) for folder in self._folders(config))
        return next((c for c in found if c is not None and expected.items() <= c.items()), None)

    def get_or_compute(
        self,
        config: TrainingConfig,
        name: str,
        find: Callable[[], dict | None],
        compute: Callable[[], dict],
        device: torch.device,
    ) -> dict:
        """Return the sealed record beside a network's, or make it.

        A second process that asks for the same one waits for the first.

        Args:
            config: the network.
            name: the record's file.
            find: gives the record, if there is one that is wanted; see ``read_beside``.
            compute: gives the whole record but for its provenance.
            device: what it computes on.
        """
        if (content := find()) is not None:
            return content
        with files.lock(self.folder(config)):
            if (content := find()) is None:
                content = compute() | {"provenance": provenance(device)}
                files.write_sealed(self.folder(config) / name, content)
        return content

    def get_or_train(
        self,
        config: TrainingConfig,
        data_dir: str,
        device: torch.device | str,
        on_epoch: OnEpoch = quiet,
    ) -> Record:
        """Return the finished record of a network, or train it, its source first.

        A second process that asks for the same network waits for the first.

        Raises:
            ValueError: it was trained, but on other images than those at hand.
        """
        self.check_made_of(config, data_dir)
        if (record := self.find(config, weights=True)) is not None:
            return record
        device = torch.device(device)
        source = self.get_or_train(config.source, data_dir, device) if config.source else None
        source_state = self.state(config.source) if config.source else None
        folder = self.folder(config)
        with files.lock(folder):
            if (record := self.find(config, weights=True)) is None:
                images = load_data(config, data_dir)
                checkpoint = folder / CHECKPOINT
                with engine.on_threads(threads(checkpoint)):  # other sums would round otherwise
                    done = train(config, images, device, checkpoint, source_state, on_epoch)
                    record = self._finish(config, *done, images, device, source, source_state)
                remove(checkpoint)
        return record

    def check_made_of(self, config: TrainingConfig, data_dir: str) -> None:
        """Raise ValueError if a record is of other images than those at hand, or another network.

        Where there are no images, records are what they are.
        """
        if (record := self.find(config)) is None:
            return
        try:
            here = fingerprints(config, images_at_hand(config, data_dir))
        except FileNotFoundError:
            return
        if record.data.get("network") != here.get("network"):
            said = f"network = {config.network!r}: it is not the one that was trained by this name"
            raise ValueError(f"{said}; allowed is another name for it, or another results_dir")
        if record.data != here:
            said = f"data_dir = {data_dir!r}: {config.name} was trained on other images"
            raise ValueError(f"{said} of {config.dataset}; allowed is a results_dir without it")

    def _finish(self, config, best, progress, images, device, source, source_state) -> Record:
        """Write weights and history, and last the record that vouches for them."""
        folder = self.folder(config)
        (folder / RECORD).unlink(missing_ok=True)  # an outdated one must not judge the new files
        before = source_state or {}
        weights = {k: v for k, v in rounded(best).items() if not same(v, before.get(k))}
        history = pd.DataFrame(progress.history).to_csv(index=False)
        made = {WEIGHTS: safetensors.torch.save(weights), HISTORY: history.encode()}
        for name, content in made.items():
            files.write_atomically(folder / name, content)
        selected = progress.history[progress.best_epoch]
        record = Record(
            hash=config.hash,
            config=config,
            selected_epoch=progress.best_epoch,
            validation={k: selected[k] for k in ("natural", "adversarial")},
            seconds=round(sum(row["seconds"] for row in progress.history), 3),
            data=fingerprints(config, images),
            source=source.checksum if source else None,
            sha256={name: files.sha256(content) for name, content in made.items()},
            provenance=provenance(device),
            folder=folder,
        )
        files.write_sealed(folder / RECORD, record.model_dump(mode="json"))
        return record

    def state(self, config: TrainingConfig) -> dict[str, Tensor]:
        """The published weights of a finished network, float32, on the CPU."""
        if not (lineage := self.lineage(config, weights=True)):
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
        finished = self.find(config, weights=True)
        return config.epochs if finished else len(history(self.folder(config) / CHECKPOINT))


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round a state to what is stored: matrices and kernels in fp16, the rest as it is.

    Every published number is of these rounded weights. Batch-norm statistics stay in fp32, as does
    what fp16 cannot hold: values that would overflow, or be lost.
    """
    return {k: (v.half() if _fits_half(v) else v).contiguous() for k, v in state.items()}


def _fits_half(value: Tensor) -> bool:
    """Whether a tensor is a matrix or kernel that fp16 changes by a thousandth at most."""
    if not value.is_floating_point() or value.ndim < 2:
        return False
    error = torch.linalg.vector_norm(value.float() - value.half().float())
    return bool(error <= 1e-3 * torch.linalg.vector_norm(value.float()))  # not if it is infinite


def merged(lineage: list[Record]) -> dict[str, Tensor]:
    """Published weights, float32: of each record what it stores, over those before it."""
    stored = (safetensors.torch.load_file(record.folder / WEIGHTS) for record in lineage)
    latest = {name: value for state in stored for name, value in state.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in latest.items()}


def folder_name(config: TrainingConfig) -> str:
    """Name of a network's folder: its id, its seed and its hash."""
    return f"{config.name}-s{config.seed}-{config.hash}"


def same(a: Tensor, b: Tensor | None) -> bool:
    """Whether a stored tensor equals, to the bit, what the source already holds."""
    return b is not None and a.shape == b.shape and torch.equal(a.to(b.dtype), b)
