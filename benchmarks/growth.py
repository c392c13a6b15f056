"""How the cost grows: with the batch, the depth, the steps of PGD, and networks side by side."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

import torch
from torch import nn

from benchmarks.clock import row, synchronise, turns
from benchmarks.contestants import Work, our_attack, our_step
from benchmarks.settings import PGD7, Bench, Settings
from robust_transfer import workers
from robust_transfer.attacks import PGD
from robust_transfer.data.registry import DATASETS
from robust_transfer.networks.registry import build
from robust_transfer.training import engine

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
DEPTHS = (20, 32, 56)
STEPS = (1, 3, 7, 20)
PROCESSES = (1, 2, 4)
"""As many as there are cores, at most."""
WORKS = ("PGD", "training step")


def growth(bench: Bench) -> dict:
    """Images/s of PGD and of a training step, in bf16, as one thing at a time changes."""
    settings = bench.settings
    contestants: dict[tuple[str, int, str], Callable[[int], object]] = {}
    images: dict[tuple[str, int, str], int] = {}

    def enter(what: str, x: int, works: dict[str, Work], size: int = settings.batch_size) -> None:
        for name, work in works.items():
            contestants[what, x, name] = lambda _, work=work: work(*bench.batch(0, size))
            images[what, x, name] = size

    for size in (size for size in BATCH_SIZES if size <= settings.images):
        enter("images a batch", size, engine_works(bench, bench.network), size)
    for depth in DEPTHS:
        enter("layers", depth, engine_works(bench, partial(untrained, bench, depth)))
    for steps in STEPS:
        works = engine_works(bench, bench.network, PGD(steps=steps))
        enter("steps of PGD", steps, works)
    with ExitStack() as pools:
        for count in (count for count in PROCESSES if count <= engine.cores()):
            pool = pools.enter_context(processes(settings, count))
            for name in WORKS:
                key = "networks side by side", count, name
                contestants[key] = partial(run_side_by_side, pool, count, name)
                images[key] = count * settings.batch_size
        seconds, _ = turns(contestants, settings.rounds, bench.device, "growth")
    rows = [
        row(seconds[key], images[key], what=key[0], x=key[1], work=key[2]) for key in contestants
    ]
    return {"rows": rows}


def engine_works(bench: Bench, new: Callable[[], nn.Module], attack: PGD = PGD7) -> dict[str, Work]:
    """The engine's attack and training step, by name, on a network of their own each."""
    works = our_attack(new(), attack, "bf16"), our_step(bench, new(), "bf16", attack)
    return dict(zip(WORKS, works, strict=True))


def untrained(bench: Bench, depth: int) -> nn.Module:
    """A network of another depth in eval mode; weights do not change its speed."""
    classes = DATASETS[bench.settings.dataset].classes
    return build(f"resnet{depth}", classes, seed=0).eval().to(bench.device)


def processes(settings: Settings, count: int, keep_memory: bool = True) -> ProcessPoolExecutor:
    """So many processes like a runner's workers, each with a network and a share of the cores."""
    return ProcessPoolExecutor(
        count,
        get_context("spawn"),
        initializer=_begin,
        initargs=(settings, count, keep_memory),
    )


def run_side_by_side(pool: ProcessPoolExecutor, count: int, name: str, _: int) -> None:
    """One batch in every process at the same time."""
    list(pool.map(_run, [name] * count))


def _begin(settings: Settings, count: int, keep_memory: bool) -> None:
    global _bench, _works
    if keep_memory:
        workers.keep_memory()
    torch.set_num_threads(max(1, engine.cores() // count))
    _bench = Bench(settings)
    _works = engine_works(_bench, _bench.network)


def _run(name: str) -> None:
    _works[name](*_bench.batch(0))
    synchronise(_bench.device)
