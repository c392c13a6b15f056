"""The machine that measured: processor, instructions, speed of plain matrix products."""

import time
from pathlib import Path

import torch

from benchmarks.clock import synchronise
from benchmarks.peers import versions
from robust_transfer.training.engine import DTYPES

FLAGS = ("avx512_bf16", "amx_bf16")
"""Instructions of an x86 processor that multiply in bf16."""
SIDES = {"cpu": 2048, "cuda": 8192}
"""Of square matrices large enough to keep the device busy."""


def describe(device: torch.device, peers: tuple[str, ...]) -> dict:
    """Versions of the peers, what the processor knows of bf16, and GFLOP/s of matrix products."""
    cpuinfo = Path("/proc/cpuinfo")
    known = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    return {
        "peers": versions(peers),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": [flag for flag in FLAGS if flag in known],
        "gemm_gflops": {name: round(gemm(device, dtype), 1) for name, dtype in DTYPES.items()},
    }


def gemm(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """GFLOP/s of the fastest of some products of two square matrices."""
    side = SIDES[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    fastest = float("inf")
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * side**3 / fastest / 1e9
