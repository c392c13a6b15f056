"""Seconds of the whole way: every network trained, every notebook executed, the book built."""

import subprocess
import sys
import tempfile
import time

from benchmarks.settings import Bench
from robust_transfer import paths

COMMANDS = {
    "smoke, everything trained": ("--profile", "smoke"),
    "laptop, from published records": ("--profile", "laptop", "--published"),
}


def pipeline(bench: Bench) -> dict:
    """Run each command once, with an empty folder of results."""
    rows = []
    for name, arguments in COMMANDS.items():
        with tempfile.TemporaryDirectory() as results:
            started = time.perf_counter()
            run(*arguments, "--results-dir", results, "--device", bench.device.type)
            seconds = round(time.perf_counter() - started, 1)
        rows.append({"name": name, "command": " ".join(arguments), "seconds": [seconds]})
    return {"rows": rows}


def run(*arguments: str) -> None:
    """Run the library's command from the root of the repository.

    Raises:
        RuntimeError: it failed; with its last line.
    """
    command = [sys.executable, "-m", "robust_transfer", "run", *arguments]
    print(" ".join(command[1:]), flush=True)
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
