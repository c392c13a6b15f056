"""Commands of the library as processes, and the processes that they start."""

import os
import subprocess
import sys
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
