"""Train and evaluate what is missing, in dependency order, several networks side by side.

Workers are processes with a share of the cores each; they meet only in the record store, so a
killed run continues where its networks stand.
"""

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from tqdm import tqdm

from robust_transfer.attacks import loss_of
from robust_transfer.config import Config
from robust_transfer.data.images import Images
from robust_transfer.evaluation import accuracies, budgets
from robust_transfer.records.provenance import commit
from robust_transfer.records.store import Record, Store
from robust_transfer.training import engine, loop
from robust_transfer.training.loop import TrainingConfig, initial_model

commit()  # asked now, of the files imported: they may change before a worker starts

POLL_SECONDS = 5
"""Between two looks at how far networks are; each is an output of a cell under papermill."""
BYTES_PER_WEIGHT = 16
"""Disk that a network needs at most: weights, momenta and best state of a checkpoint, a record."""


class Runner(Config):
    """Where networks are trained and kept.

    Attributes:
        results_dir: folder of the records made here.
        published_dir: folder of published records, taken as they are; "" ignores them.
        data_dir: folder of the images; see ``data.registry.load``.
        device: ``auto`` takes a CUDA GPU where there is one.
        workers: networks trained side by side; 0 is one per core on a CPU and one on a GPU. On a
            GPU their kernels take turns, unless NVIDIA's multi-process service (MPS) runs.
    """

    results_dir: str = "results"
    published_dir: str = ""
    data_dir: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0)

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
        absent = [c for config in configs for c in self._absent(config, weights)]
        return list({c.hash: c for c in absent}.values())

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
        while missing := self.missing(configs, weights):  # a new source voids old transfers
            self._announce(missing)
            self._run(self._train_one, missing, {c.hash: c.epochs for c in missing}, "epoch")
        return [self.store.find(config) for config in configs]

    def evaluate(
        self, configs: list[TrainingConfig], how: accuracies.EvaluationConfig
    ) -> list[accuracies.Evaluation]:
        """Evaluate finished networks that have no such evaluation yet; return all of them.

        What was published without weights is trained anew where an evaluation is missing.

        Raises:
            FileNotFoundError: a network has no record yet.
            RuntimeError: some evaluations failed; what is finished stays.
            ValueError: stored evaluations are of other test images than the others.
        """

        def missing() -> list[TrainingConfig]:
            return [c for c in configs if accuracies.find(self.store, c, how) is None]

        if wanted := missing():
            for config in (*wanted, how.surrogate):
                accuracies.weights_of(self.store, config)
        if wanted := self._with_weights(missing, how.surrogate):
            print(f"evaluating {len(wanted)} networks on {how.test_size} test images", flush=True)
            accuracies.black_box_examples(self.store, how, self.data_dir, self.torch_device)
            work = partial(self._evaluate_one, how)
            self._run(work, wanted, {c.hash: 1 for c in wanted}, "network")
        found = [accuracies.find(self.store, config, how) for config in configs]
        accuracies.same_images(found)
        return found

    def measure(
        self, wanted: Sequence[tuple[TrainingConfig, budgets.BudgetConfig]]
    ) -> list[budgets.Budgets]:
        """Train what is missing and measure it over budgets; return all measurements.

        What was published without weights is trained anew where a measurement is missing.

        Args:
            wanted: the networks, each with what is measured on it.

        Raises:
            RuntimeError: some networks failed; what is finished stays.
            ValueError: stored measurements of a task are of other test images than the others.
        """
        hows = {config.hash: how for config, how in wanted}

        def missing() -> list[TrainingConfig]:
            absent = [c for c, how in wanted if budgets.find(self.store, c, how) is None]
            return list({config.hash: config for config in absent}.values())

        if absent := self._with_weights(missing):
            print(f"measuring {len(absent)} networks", flush=True)
            work = partial(self._measure_one, hows)
            self._run(work, absent, {c.hash: 1 for c in absent}, "network")
        found = [(how, budgets.find(self.store, config, how)) for config, how in wanted]
        for how in {how for how, _ in found}:
            accuracies.same_images(budget for other, budget in found if other == how)
        return [budget for _, budget in found]

    def _with_weights(
        self, missing: Callable[[], list[TrainingConfig]], *also: TrainingConfig
    ) -> list[TrainingConfig]:
        """What is ``missing``, all of it trained; a source or surrogate trained anew adds to it."""
        wanted = missing()
        while wanted and self.missing([*wanted, *also], weights=True):
            self.train([*wanted, *also], weights=True)
            wanted = missing()
        return wanted

    def _measure_one(self, hows: dict[str, budgets.BudgetConfig], config: TrainingConfig) -> None:
        how = hows[config.hash]
        budgets.get_or_measure(self.store, config, how, self.data_dir, self.torch_device)

    def _train_one(self, config: TrainingConfig) -> None:
        self.store.get_or_train(config, self.data_dir, self.torch_device)

    def _evaluate_one(self, how: accuracies.EvaluationConfig, config: TrainingConfig) -> None:
        accuracies.get_or_evaluate(self.store, config, how, self.data_dir, self.torch_device)

    def _announce(self, missing: list[TrainingConfig]) -> None:
        """Find out what cannot work before hours are spent, and say what will run."""
        _context()  # workers come from a process that imports the library while this one decodes
        Path(self.results_dir).mkdir(parents=True, exist_ok=True)
        device, batch_seconds = self.torch_device, {}
        seconds = bytes_needed = 0
        for config in missing:
            images, validation = loop.load_data(config, self.data_dir)
            kind = config.network, config.dataset, config.batch_size
            if kind not in batch_seconds:
                batch_seconds[kind] = time_batch(config, images, device)
            seconds += batch_seconds[kind] * count_batches(config, len(images), len(validation))
            bytes_needed += BYTES_PER_WEIGHT * weights(config)
        if (free := shutil.disk_usage(self.results_dir).free) < bytes_needed:
            raise OSError(
                f"results_dir = {self.results_dir!r}: {bytes_needed >> 20} MiB needed, "
                f"{free >> 20} MiB free on its disk"
            )
        names = ", ".join(config.name for config in missing)
        print(f"training {len(missing)} networks: {names}")
        about = "at most" if device.type == "cuda" else "about"  # a GPU replays recorded steps
        duration = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"
        print(f"{about} {duration} on {device.type}", flush=True)

    @property
    def _processes(self) -> int:
        return self.workers or (engine.cores() if self.torch_device.type == "cpu" else 1)

    def _run(
        self,
        work: Callable[[TrainingConfig], None],
        configs: list[TrainingConfig],
        units: dict[str, int],
        unit: str,
    ) -> None:
        """Do ``work`` on every network once its source is done, several at a time.

        Args:
            work: what a worker process does with a network.
            configs: the networks, sources first.
            units: how much of the progress bar each network is, by hash.
            unit: what the bar counts: ``epoch``, of which a running network reports its share, or
                ``network``.
        """
        names = {c.hash: c for c in configs}
        waiting, running, suspects = dict(names), {}, set()
        finished, failed = 0, {}
        workers = min(self._processes, len(configs))
        bar = tqdm(total=sum(units.values()), unit=unit, file=sys.stdout, ncols=88)
        begin = partial(
            ProcessPoolExecutor, workers, _context(), initializer=_begin_worker, initargs=(workers,)
        )
        pool = begin()
        try:
            while waiting or running:
                for key, config in list(waiting.items()):
                    source = config.source.hash if config.source else None
                    alone = key in suspects and not running
                    if source in failed:
                        failed[key] = f"{config.name} needs {config.source.name}"
                        del waiting[key]
                    elif source in {*waiting, *running.values()}:
                        continue
                    elif alone if suspects else len(running) < workers:
                        running[pool.submit(_attempt, work, waiting.pop(key))] = key
                broken = False
                for future in wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done:
                    key, error = running.pop(future), future.exception()
                    broken |= isinstance(error, BrokenProcessPool)
                    if isinstance(error, BrokenProcessPool) and key not in suspects:
                        suspects.add(key)
                        waiting[key] = names[key]
                        continue
                    suspects.discard(key)
                    finished += units[key]
                    if error is not None:
                        traceback.print_exception(error)
                        failed[key] = f"{names[key].name}: {error}"
                if broken:  # a worker was killed, for want of memory say, and took all with it:
                    pool.shutdown(wait=False)  # each goes on, alone, to see whose it was
                    pool = begin()
                current = [names[key] for key in running.values()]
                bar.n = finished
                if unit == "epoch":
                    bar.n += sum(self.store.epochs_done(config) for config in current)
                bar.set_description(" + ".join(config.name for config in current))
            pool.shutdown()
        except BaseException:  # an interrupt too: workers would otherwise train on
            for process in active_children():
                process.terminate()
            raise
        finally:
            bar.close()
        if failed:
            reasons = "; ".join(failed.values())
            raise RuntimeError(f"{len(failed)} of {len(configs)} networks failed: {reasons}")


def weights(config: TrainingConfig) -> int:
    """Number of weights of a configured network."""
    return sum(p.numel() for p in initial_model(config, None).parameters())


def time_batch(config: TrainingConfig, images: Images, device: torch.device) -> float:
    """Seconds of one forward and backward pass of a batch here, the whole machine at it."""
    model = initial_model(config, None).to(device)
    pixels, labels = (part.to(device) for part in next(images.batches(config.batch_size)))
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        with loop.precision(config, device):
            loss = loss_of(model(pixels), labels)
        loss.backward()
        loss.item()
    return time.perf_counter() - started


def count_batches(config: TrainingConfig, images: int, validation: int) -> float:
    """How many forward and backward passes of a batch a training costs.

    A pass for the input gradient alone counts two thirds, a forward pass one third.
    """
    attack = 0.67 * config.attack.steps if config.attack else 0
    halves = 2 if config.attack else 1
    per_epoch = (halves + attack) * images + (0.33 * halves + attack) * validation
    return config.epochs * per_epoch / config.batch_size


def _context() -> BaseContext:
    """How workers start: from a process that has imported the library, where the system can fork.

    Imports take seconds, and a notebook calls a runner several times.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ensure_running()
    return context


def _attempt(work: Callable[[TrainingConfig], None], config: TrainingConfig) -> None:
    """Do ``work``; where the device fails, which no later work here survives, the worker ends."""
    try:
        work(config)
    except torch.AcceleratorError:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _begin_worker(workers: int) -> None:
    """Take a share of the cores, and end when the parent does, even if it was killed."""
    engine.keep_memory()
    torch.set_num_threads(max(1, engine.cores() // workers))

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
