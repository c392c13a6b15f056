"""A GPU for several processes at once: NVIDIA's multi-process service (MPS).

Without it the kernels of several networks only take turns. Kill no single process under it: all
others fail with it, and go on from their checkpoints when they are called again. Small kernels wait
there for large ones, so measuring beside a training slows that many times over.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SERVICE = "nvidia-cuda-mps-control"
CUDA_PROGRAM = "import torch; torch.ones(1, device='cuda').sum().item()"
"""Once it has run under the process service, workers may start."""
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""Where programs find their service; one of its own for each, as each may have another GPU."""


@contextmanager
def process_service(workers: int) -> Iterator[None]:
    """Let several workers share a GPU, where NVIDIA's process service is there.

    Processes that begin meanwhile use it.
    """
    control = shutil.which(SERVICE) if workers > 1 else None
    if control is None:
        yield
        return
    before = os.environ.get(PIPES)
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as pipes:
        os.environ[PIPES] = pipes
        began = False
        try:
            began = _runs(control, "-d")
            if began and not _runs(sys.executable, "-c", CUDA_PROGRAM):
                print(f"no CUDA program runs under {SERVICE}: workers take turns", flush=True)
                began = not _runs(control, text="quit\n")
            yield
        finally:
            if began:
                _runs(control, text="quit\n")
            os.environ.pop(PIPES)
            os.environ |= {PIPES: before} if before is not None else {}


def _runs(*command: str, text: str = "") -> bool:
    """Whether a command that reads ``text`` succeeds within a minute."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 60}
    try:
        return subprocess.run(command, input=text, text=True, **quiet).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
