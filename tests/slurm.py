"""A real Slurm on this machine: one node with two slots, on loopback, in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory} State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Why no Slurm can be started here; "" if one can."""
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(absent)} here (Debian: slurm-wlm, munge)"
    if os.getuid() or (os.cpu_count() or 1) < 2:
        return "a Slurm with two slots needs root and two cores"
    return ""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Slurm, give the environment that its commands need, and end it.

    Raises:
        RuntimeError: it is not ready after half a minute; says what its logs say.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)  # munge distrusts a place that others can write to
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    where = {"host": socket.gethostname(), "folder": folder, "ports": _free_ports(2)}
    conf = CONF.format(memory=memory, **where)
    (folder / "slurm.conf").write_text(conf)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    of_munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in
                ("key-file", "socket", "pid-file", "log-file", "seed-file")]  # fmt: skip
    commands = (
        ["munged", "--foreground", "--force", *of_munge],
        ["slurmctld", "-D", "-i"],
        # The executor drops SLURM_CONF from what jobs see, so the node has it at the usual place.
        ["unshare", "--mount", "sh", "-c", f"mount --bind {folder} /etc/slurm && exec slurmd -D"],
    )
    running = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as output:
                running.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                )
            time.sleep(1)
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    for _ in range(60):
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True
        )
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    said = "\n".join(path.read_text()[-1000:] for path in folder.glob("*.out"))
    raise RuntimeError(f"no Slurm after half a minute: {asked.stdout}{asked.stderr}{said}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
