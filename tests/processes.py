"""Commands of the library as processes, and the processes that they start."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path


def start(checkout: Path, *arguments: str) -> subprocess.Popen:
    """Begin a command of the library in a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src/lib")}
    return subprocess.Popen(
        [sys.executable, "-m", "robust_transfer", *arguments],
        cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """Wait for a command that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, output[-3000:]
    return output


def descendants(pid: int) -> list[int]:
    """A process and those that it started, and they, parents first."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for process in found:
        found += [child for child, parent in parents if parent == process]
    return found


def kill(pid: int) -> None:
    """Kill a process and all that it started."""
    for process in reversed(descendants(pid)):
        with suppress(ProcessLookupError):  # it ended by itself since it was listed
            os.kill(process, signal.SIGKILL)


def end_with_parent() -> None:
    """Kill this process, and all that it started, once nobody waits for it any more."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        kill(os.getpid())

    threading.Thread(target=watch, daemon=True).start()
