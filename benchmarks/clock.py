"""Seconds of contestants that take turns, so that a slow minute of the machine meets them all."""

import time
from collections.abc import Callable, Hashable
from random import Random
from statistics import median

import torch
from tqdm import tqdm

from robust_transfer.training.engine import Replay


def turns(
    contestants: dict[Hashable, Callable[[int], object]],
    rounds: int,
    device: torch.device,
    title: str,
) -> tuple[dict[Hashable, list[float]], dict[Hashable, list[object]]]:
    """Let every contestant run once a round, in another order each time.

    Args:
        contestants: name → what to time; it is given the number of the round.
        rounds: how many count; some come before to warm up.
        device: whose work is waited for before the clock is read.
        title: of the progress bar.

    Returns:
        Seconds, and what the contestants returned, by name and round.
    """
    seconds = {name: [] for name in contestants}
    results = {name: [] for name in contestants}
    warm_up = Replay.WARM_UP + 1 if device.type == "cuda" else 1
    for number in tqdm(range(-warm_up, rounds), desc=title, unit="round", ncols=88):
        order = list(contestants)
        Random(number).shuffle(order)
        for name in order:
            synchronise(device)
            started = time.perf_counter()
            result = contestants[name](max(number, 0))
            synchronise(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
                results[name].append(result)
    return seconds, results


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(seconds: list[float], images: int, **identity: object) -> dict:
    """A contestant's row of a record: its identity, every round, and images/s of the rounds."""
    speeds = {"images_per_second": median(seconds), "slowest": max(seconds)}
    speeds["fastest"] = min(seconds)
    speeds = {name: round(images / value, 2) for name, value in speeds.items()}
    return identity | {"images": images, "seconds": [round(s, 5) for s in seconds]} | speeds


def compare(rows: list[dict]) -> list[dict]:
    """The same rows, each with its ``ratio`` of images/s to the textbook at the same work."""
    speed = {r["work"]: r["images_per_second"] for r in rows if r["role"] == "textbook"}
    return [r | {"ratio": round(r["images_per_second"] / speed[r["work"]], 3)} for r in rows]
