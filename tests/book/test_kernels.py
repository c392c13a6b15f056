"""Forked kernels do what Jupyter's do, and end with whoever started them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from robust_transfer.book.kernels import Forking

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")

SCRIPT = """
import sys
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from robust_transfer import paths
from robust_transfer.book import pipeline
from robust_transfer.book.kernels import start_forking

if __name__ == "__main__":
    paths.NOTEBOOKS = Path(sys.argv[1])
    for how, kernels in {"forked": start_forking(), "started": AsyncKernelManager}.items():
        paths.EXECUTED = paths.NOTEBOOKS / how
        pipeline.execute("page", {"given": 3}, kernels)
"""
PAGE = [
    "given = 2",
    "import sys\nprint('robust_transfer.book.pipeline' in sys.modules)",
    "import os\nprint(given, os.getcwd())",
    "import pandas as pd\n"
    "from robust_transfer.presentation import figures\n"
    "column = {'epoch': [0, 1], 'natural': [0.1, 0.9], 'adversarial': [0.0, 0.5]}\n"
    "figures.training_curves({'a network': pd.DataFrame(column)})",
    "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    print(error, file=sys.stderr)",
]


def begin(folder: Path, cells: list[str]) -> subprocess.Popen:
    """Begin to execute a page, in a kernel of either kind."""
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    page.cells[0].metadata["tags"] = ["parameters"]
    page.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "it"}
    nbformat.write(page, folder / "page.ipynb")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    return subprocess.Popen([sys.executable, folder / "script.py", folder], cwd=folder)


def test_a_forked_kernel_shows_what_one_that_is_started_shows(tmp_path):
    assert begin(tmp_path, PAGE).wait(300) == 0
    forked, started = (
        [cell.outputs for cell in nbformat.read(tmp_path / how / "page.ipynb", 4).cells]
        for how in ("forked", "started")
    )
    assert [outputs[1][0].text for outputs in (forked, started)] == ["True\n", "False\n"]
    assert "<svg" in str(forked[3]) and "division by zero" in str(forked[4])
    assert forked[2:] == started[2:]


def test_a_forked_kernel_ends_with_a_pipeline_that_is_killed(tmp_path):
    told = tmp_path / "pid"
    waits = f"import os, pathlib, time\npathlib.Path({str(told)!r}).write_text(f'{{os.getpid()}}')"
    process = begin(tmp_path, ["given = 2", waits, "time.sleep(600)"])
    wait_until(lambda: told.exists() and told.read_text())
    kernel = int(told.read_text())
    assert alive(kernel)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        wait_until(lambda: not alive(kernel))
    finally:
        with suppress(ProcessLookupError):
            os.kill(kernel, signal.SIGKILL)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


def test_only_a_kernel_that_goes_on_is_interrupted():
    kernel = Forking()
    with pytest.raises(RuntimeError, match="No kernel is running"):  # it would interrupt one
        asyncio.run(kernel._async_interrupt_kernel())
    kernel.shutting_down = True
    asyncio.run(kernel._async_interrupt_kernel())


def wait_until(done) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.2)
