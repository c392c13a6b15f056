"""Train and evaluate what is missing, in dependency order, several networks side by side.

Workers are processes with a share of the cores each; they meet only in the record store, so a
killed run continues where its networks stand.
"""

import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from tqdm import tqdm

from robust_transfer.attacks import loss_of
from robust_transfer.config import Config
from robust_transfer.data.images import Images
from robust_transfer.data.registry import OURS
from robust_transfer.evaluation.accuracies import Evaluation, EvaluationConfig
from robust_transfer.evaluation.measurement import (
    Measured,
    MeasurementConfig,
    same_images,
    test_images,
)
from robust_transfer.networks.registry import is_own
from robust_transfer.records.provenance import commit
from robust_transfer.records.store import Record, Store
from robust_transfer.training import engine, loop
from robust_transfer.training.loop import TrainingConfig, initial_model
from robust_transfer.workers import begin_worker, worker_context

commit()  # asked now, of the files imported: they may change before a worker starts

Jobs = dict[TrainingConfig, Callable[[], object]]
"""Networks, sources first, each with what a worker does for it."""
Wish = tuple[TrainingConfig, MeasurementConfig]
"""A network, and what is to be measured on it."""
Asked = Set[TrainingConfig]
"""All networks that a call is to have ready in the end, finished ones too."""
POLL_SECONDS = 5
"""Between two looks at how far networks are; each is an output of a cell under papermill."""
BYTES_PER_WEIGHT = 40
"""Disk that a network needs at most, a record, and weights, momenta and best state three times,
in the checkpoint, in that of the epoch before, and in the one that is being written."""


class Runner(Config):
    """Where networks are trained and kept.

    Attributes:
        results_dir: folder of the records made here.
        published_dir: folder of published records, taken as they are; "" ignores them.
        data_dir: folder of the images; see ``data.registry.load``.
        device: ``auto`` takes a CUDA GPU where there is one.
        workers: networks trained side by side; 0 is one per core on a CPU and one on a GPU. On a
            GPU their kernels take turns, unless NVIDIA's multi-process service (MPS) runs.
        threads: that compute each network; 0 shares the cores among the workers. Their number
            decides the last bits.
    """

    results_dir: str = Field("results", min_length=1)
    published_dir: str = ""
    data_dir: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)

    @property
    def store(self) -> Store:
        """The record store of both folders."""
        return Store(self.results_dir, self.published_dir or None)

    @property
    def torch_device(self) -> torch.device:
        """The device itself.

        Raises:
            ValueError: ``cuda`` was asked for and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device = 'cuda': no CUDA GPU here; allowed are auto, cpu")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    def missing(self, configs: list[TrainingConfig], weights: bool = False) -> list[TrainingConfig]:
        """The networks without a finished record, and what must be trained first, sources first.

        Args:
            configs: the networks.
            weights: count a record that was published without weights as none, as is always done
                of a source that a training is to start from.
        """
        return list(dict.fromkeys(c for config in configs for c in self._absent(config, weights)))

    def _absent(self, config: TrainingConfig, weights: bool) -> list[TrainingConfig]:
        if self.store.find(config, weights) is not None:
            return []
        return (self._absent(config.source, True) if config.source else []) + [config]

    def train(self, configs: list[TrainingConfig], weights: bool = False) -> list[Record]:
        """Train the networks that have no record yet, sources first; return all records.

        Args:
            configs: the networks.
            weights: train those anew whose record was published without them.

        Raises:
            ValueError, OSError: settings, data or disk that cannot work, before any training.
            RuntimeError: some networks failed; what is finished stays.
        """
        self._check_made_of(lineages(configs))
        self._train(configs, weights, lineages(configs))
        return [self.store.find(config) for config in configs]

    def _train(self, configs: list[TrainingConfig], weights: bool, asked: Asked) -> None:
        while missing := self.missing(configs, weights):  # a new source voids old transfers
            self.announce(missing, weights)
            where = self.data_dir, self.torch_device
            jobs = {c: partial(self.store.get_or_train, c, *where) for c in missing}
            self._run(jobs, "epoch", asked)

    def evaluate(self, configs: list[TrainingConfig], how: EvaluationConfig) -> list[Evaluation]:
        """Measure the accuracies of finished networks; return all of them, see ``measure``.

        Raises:
            FileNotFoundError: a network has no record yet.
        """
        for config in (*configs, how.surrogate) if configs else ():
            self.store.require(config)
        return self.measure([(config, how) for config in configs])

    def measure(self, wanted: Sequence[Wish]) -> list[Measured]:
        """Train what is missing and measure what is not measured yet; return all that was found.

        What was published without weights is trained anew where a measurement is missing.

        Args:
            wanted: the networks, each with what is measured on it.

        Raises:
            RuntimeError: some networks failed; what is finished stays.
            ValueError: stored measurements of a task are of other test images than the others.
        """
        self._check_made_of(lineages(networks(wanted)))
        if absent := self._trained(wanted):
            self._announce_measuring(absent)
            where = self.data_dir, self.torch_device
            for how in {how for _, how in absent}:
                how.prepare(self.store, *where)
            hows = {c: [how for other, how in absent if other == c] for c, _ in absent}
            jobs = {c: partial(_measure, hows[c], self.store, c, *where) for c in hows}
            self._run(jobs, "network", {config for config, _ in wanted})
        found = [(how, how.find(self.store, config)) for config, how in wanted]
        for how in {how for how, _ in found}:
            same_images(how, [result for other, result in found if other == how], self.data_dir)
        return [result for _, result in found]

    def train_and_measure(self, wanted: Sequence[Wish]) -> None:
        """Take networks in their order, each to its last measurement before it makes room.

        So those that come first are whole when time is up. What is measured with other networks,
        as by a surrogate, is left to ``measure``.

        Args:
            wanted: see ``measure``; sources have been trained.

        Raises:
            RuntimeError: some networks failed; what is finished stays.
        """
        hows: dict[TrainingConfig, list[MeasurementConfig]] = {}
        for config, how in wanted:
            if how.find(self.store, config) is None:
                hows.setdefault(config, []).append(how)
        where = self.data_dir, self.torch_device
        jobs = {c: partial(_measure, of, self.store, c, *where) for c, of in hows.items()}
        self._run(jobs, "network", {config for config, _ in wanted})

    def _trained(self, wanted: Sequence[Wish]) -> list[Wish]:
        """What is not measured yet, all of it trained; a source or surrogate anew adds to it."""
        while True:
            absent = [(c, how) for c, how in wanted if how.find(self.store, c) is None]
            for how in {how for _, how in absent}:  # now, not after what is missing was trained
                test_images(how, self.data_dir)
            if not self.missing(networks(absent), weights=True):
                return absent
            self._train(networks(absent), True, lineages(networks(wanted)))

    def _check_made_of(self, asked: Asked) -> None:
        """Raise ValueError where a finished network is of other images than those at hand."""
        for config in sorted(asked, key=lambda config: (config.dataset, config.train_size)):
            self.store.check_made_of(config, self.data_dir)  # those of a data set stay loaded

    def announce(self, configs: list[TrainingConfig], weights: bool = False) -> None:
        """Find out what cannot work before hours are spent, and say what of it will be trained.

        Args:
            configs: the networks.
            weights: see ``missing``.

        Raises:
            ValueError, OSError: settings, data or disk that cannot work.
        """
        if not (missing := self.missing(configs, weights)):
            return
        worker_context()  # that process imports the library while this one decodes
        device, batch_seconds, seconds = self.torch_device, {}, 0
        for config in missing:
            self._known_to_workers(config)
            images, validation = loop.load_data(config, self.data_dir)
            if (kind := (config.network, config.dataset, config.batch_size)) not in batch_seconds:
                batch_seconds[kind] = time_batch(config, images, device)
            seconds += batch_seconds[kind] * count_batches(config, len(images), len(validation))
        Path(self.results_dir).mkdir(parents=True, exist_ok=True)
        bytes_needed = BYTES_PER_WEIGHT * sum(count_weights(config) for config in missing)
        if (free := shutil.disk_usage(self.results_dir).free) < bytes_needed:
            needed = f"{bytes_needed >> 20} MiB needed, {free >> 20} MiB free on its disk"
            raise OSError(f"results_dir = {self.results_dir!r}: {needed}")
        print(f"training {len(missing)} networks: {', '.join(config.name for config in missing)}")
        about = "at most" if device.type == "cuda" else "about"  # a GPU replays recorded steps
        print(f"{about} {duration(seconds)} on {device.type}", flush=True)

    def _known_to_workers(self, config: TrainingConfig) -> None:
        """Raise ValueError for what was made known in this process, but in no other."""
        for what, name, own in (
            ("network", config.network, is_own(config.network)),
            ("dataset", config.dataset, config.dataset not in OURS),
        ):
            if own:
                said = f"{what} = {name!r}: it is known in this process, and workers are others"
                raise ValueError(f"{said}; allowed are those in registry.py, or Store.get_or_train")

    def _announce_measuring(self, absent: Sequence[Wish]) -> None:
        """Say what will be measured, and how long that takes, if DeepFool is left out."""
        device, seconds_of, seconds = self.torch_device, {}, 0.0
        for config, how in absent:
            if (kind := (config.network, how)) not in seconds_of:
                images = test_images(how, self.data_dir)
                batch_seconds = time_batch(config, images, device)
                count = min(config.batch_size, len(images))
                seconds_of[kind] = how.passes * len(images) * batch_seconds / count
            seconds += seconds_of[kind]
        size = max(how.test_size for _, how in absent)
        count = len({config for config, _ in absent})
        print(f"measuring {count} networks on up to {size} test images")
        print(f"about {duration(seconds)} on {device.type}", flush=True)

    def _run(self, jobs: Jobs, unit: str, asked: Asked) -> None:
        """Do the job of every network once its source is done, several at a time.

        Args:
            jobs: what worker processes do.
            asked: all networks that are to be there in the end. Their number decides how many
                threads compute each of them, so that none comes out another way, in its last
                digits, when a run that was killed has only a few left.
            unit: of the progress bar: ``network``, or ``epoch``, of which a running network reports
                its share.
        """
        sizes = {config: config.epochs if unit == "epoch" else 1 for config in jobs}
        workers = self.workers or (engine.cores() if self.torch_device.type == "cpu" else 1)
        workers = min(workers, len(asked))
        crew = Crew(jobs, workers, self.threads or max(1, engine.cores() // workers))
        bar = tqdm(total=sum(sizes.values()), unit=unit, file=sys.stdout, ncols=88)
        try:
            while crew.waiting or crew.running:
                crew.begin()
                crew.collect()
                current = crew.running.values()
                bar.n = sum(sizes[config] for config in crew.done)
                if unit == "epoch":
                    bar.n += sum(self.store.epochs_done(config) for config in current)
                bar.set_description(" + ".join(config.name for config in current))
            crew.pool.shutdown()
        except BaseException:  # an interrupt too: workers would otherwise train on
            for process in active_children():
                process.terminate()
            raise
        finally:
            bar.close()
        if crew.failed:
            reasons = "; ".join(crew.failed.values())
            raise RuntimeError(f"{len(crew.failed)} of {len(jobs)} networks failed: {reasons}")


class Crew:
    """Worker processes, and how far the networks are that they work on.

    Args:
        jobs: what they do.
        workers: how many they are.
        threads: of each.

    Attributes:
        waiting: networks that nobody has begun, sources first.
        running: the network of every worker at work, by its future.
        done: networks that were worked on, whether or not they failed.
        failed: why a network failed.
        suspects: networks that were under way when a worker died; each goes on alone.
    """

    def __init__(self, jobs: Jobs, workers: int, threads: int) -> None:
        self.jobs, self.workers, self.threads = jobs, workers, threads
        self.waiting, self.done = list(jobs), []
        self.running, self.failed, self.suspects = {}, {}, set()
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, worker_context(), begin_worker, (self.threads,))

    def begin(self) -> None:
        """Give work to idle workers; what started from a failed network fails with it."""
        for config in list(self.waiting):
            alone = config in self.suspects and not self.running
            free = alone if self.suspects else len(self.running) < self.workers
            if config.source in self.failed:
                self.failed[config] = f"{config.name} needs {config.source.name}"
                self.waiting.remove(config)
            elif free and config.source not in (*self.waiting, *self.running.values()):
                self.waiting.remove(config)
                self.running[self.pool.submit(_attempt, self.jobs[config])] = config

    def collect(self) -> None:
        """Wait a while for a network; after a worker's death, say whose it was or find out."""
        done = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done
        errors = {self.running.pop(future): future.exception() for future in done}
        died = [c for c, error in errors.items() if isinstance(error, BrokenProcessPool)]
        again = [config for config in died if config not in self.suspects]
        if died:  # a worker was killed, for want of memory say, and took all with it:
            self.pool.shutdown(wait=False)  # each goes on, alone, to see whose it was
            self.pool = self._new_pool()
        self.waiting += again
        self.suspects = (self.suspects - errors.keys()) | {*again}
        self.done += [config for config in errors if config not in again]
        for config, error in errors.items():
            if error is not None and config not in again:
                traceback.print_exception(error)
                self.failed[config] = f"{config.name}: {error}"


def networks(wanted: Sequence[Wish]) -> list[TrainingConfig]:
    """All networks that measurements take."""
    return [network for config, how in wanted for network in how.networks(config).values()]


def lineages(configs: Sequence[TrainingConfig]) -> Asked:
    """Networks with the sources that they are trained from."""
    sources = {config.source for config in configs if config.source}
    return {*configs} | (lineages([*sources]) if sources else set())


def count_weights(config: TrainingConfig) -> int:
    """Number of weights of a configured network."""
    return sum(p.numel() for p in initial_model(config, None).parameters())


def duration(seconds: float) -> str:
    """A time that is known about, in words."""
    return f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"


def time_batch(config: TrainingConfig, images: Images, device: torch.device) -> float:
    """Seconds of one forward and backward pass of a batch here, the whole machine at it.

    On a CPU they are those of one core by the number of cores: threads that share a batch wait for
    each other a hundred times as long wherever another process is at work.
    """
    model = initial_model(config, None).to(device)
    pixels, labels = (part.to(device) for part in next(images.batches(config.batch_size)))
    taken = []
    with engine.on_threads(1):
        for _ in range(3):  # the first warms up
            started = time.perf_counter()
            with loop.precision(config, device):
                loss = loss_of(model(pixels), labels)
            loss.backward()
            loss.item()
            taken.append(time.perf_counter() - started)
    return min(taken) / (engine.cores() if device.type == "cpu" else 1)


def count_batches(config: TrainingConfig, images: int, validation: int) -> float:
    """How many forward and backward passes of a batch a training costs.

    A pass for the input gradient alone counts two thirds, a forward pass one third.
    """
    attack, halves = (0.67 * config.attack.steps, 2) if config.attack else (0, 1)
    per_epoch = (halves + attack) * images + (0.33 * halves + attack) * validation
    return config.epochs * per_epoch / config.batch_size


def _measure(
    hows: Sequence[MeasurementConfig],
    store: Store,
    config: TrainingConfig,
    data_dir: str,
    device: torch.device,
) -> None:
    """Measure all that is asked of a network, trained first if it is not there yet.

    Each measurement is kept as soon as it is finished.
    """
    store.get_or_train(config, data_dir, device)
    for how in hows:
        how.get_or_measure(store, config, data_dir, device)


def _attempt(job: Callable[[], object]) -> None:
    """Do a job; where the device fails, which no later work here survives, the worker ends."""
    try:
        job()
    except torch.AcceleratorError:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
