"""Which machine, versions and commit made a record, and when."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

from robust_transfer import paths
from robust_transfer.training.engine import has_bf16


def provenance(device: torch.device) -> dict:
    """Which machine, versions and commit computed something, and when."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name if has_bf16(device) else f"{name}, without bf16",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # not imported for this: that takes seconds
        "numpy": numpy.__version__,
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def commit() -> str:
    """The library's git commit when it was imported, marked if files had changed since.

    Where there is no git, or a copy without its history, what ``COMMIT`` in the environment says.
    """
    root = _git("rev-parse", "--show-toplevel")
    if not root or Path(root).resolve() != paths.ROOT:  # a copy may lie in another repository
        return os.environ.get("COMMIT", "unknown")
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or "unknown"


def _git(*words: str) -> str:
    """What git says of the library's folder; empty if it cannot."""
    command = ["git", *words]
    quiet = {"capture_output": True, "text": True, "encoding": "utf-8", "check": True}
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, **quiet).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {names[0] if names else platform.machine()}, {os.cpu_count()} cores"
