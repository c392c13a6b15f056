"""Processes beside this one: how they start, compute and end. Light, so that they start at once."""

import ctypes
import os
import sys
import threading
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running

LIBRARY = ("robust_transfer.runner",)
"""What workers have imported when they start."""
BOOK = ("robust_transfer.book.pipeline", "altair", "myst_nb", "torchvision.models")
"""And kernels, which use nearly all of the library, show results and build networks."""


def worker_context(preloaded: tuple[str, ...] = LIBRARY) -> BaseContext:
    """How workers start: from a process that has imported the library, where the system can fork.

    Imports take seconds, and a notebook calls a runner several times.

    Args:
        preloaded: modules that this process imports, if it is not there yet.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([*preloaded])
    ensure_running()
    return context


def prepare_kernels() -> bool:
    """Start the process that kernels are forked from; False where they are not forked."""
    if sys.platform != "linux":  # elsewhere systems cannot fork, or not with what kernels load
        return False
    worker_context(BOOK)
    return True


def begin_worker(threads: int) -> None:
    """Compute with so many threads, and end when the parent does, even if it was killed."""
    import torch  # the worker has it; who only starts workers need not

    keep_memory()
    torch.set_num_threads(threads)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def keep_memory() -> None:
    """Let this process keep what it frees for the next batch, where its C library is glibc.

    Otherwise glibc hands tens of MiB back layer after layer, and waits for the system to clear
    every page that it asks for again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as <malloc.h> numbers them
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**25)  # the most that it takes
