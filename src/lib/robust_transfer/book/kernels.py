"""Kernels forked from a process that has imported the library: that takes seconds, every time."""

import gc
import os
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import matplotlib
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.manager import AsyncKernelManager

from robust_transfer.workers import begin_worker, prepare_kernels


def start_forking() -> type[AsyncKernelManager]:
    """Start the process that kernels are forked from, if there is none for workers yet.

    Returns:
        What starts kernels, for nbclient; where the system does not fork, as Jupyter would.
    """
    return Forking if prepare_kernels() else AsyncKernelManager


class Forking(AsyncKernelManager):
    """Starts kernels as forks."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: object) -> None:
        """Start a kernel with the options of its command, from ``-f`` on."""
        options = kernel_cmd[kernel_cmd.index("-f") :]
        process = get_context("forkserver").Process(target=_run, args=(options, os.getcwd()))
        process.start()
        self.provisioner.process = _Started(process)
        self._reconcile_connection_info(self.provisioner.connection_info)

    async def _async_interrupt_kernel(self) -> None:
        """Interrupt a kernel, but none that is about to end: it would print that it was."""
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


def _run(options: list[str], folder: str) -> None:
    """Be a kernel, until it is told to end or the pipeline has ended."""
    gc.freeze()  # what is imported stays: nothing to look through, again and again
    os.setsid()  # a terminal's interrupt is the pipeline's, which tells its kernels
    os.chdir(folder)
    # what Jupyter tells a Matplotlib that is not imported yet: figures go into the notebook
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    begin_worker(threads=1)  # kernels share the cores
    IPKernelApp.launch_instance(options, parent_handle=os.getppid())


class _Started:
    """A process as the ``subprocess.Popen`` that Jupyter expects."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess) -> None:
        self.process = process
        self.terminate, self.kill = process.terminate, process.kill

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)
