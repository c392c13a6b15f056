"""The whole way, for real, in a copy of the checkout and in a process beside the tests.

``python tests/whole_way.py NAME``, from the root of the copy, makes the book of one of ``WAYS``;
records go to its folder ``results``. ``conftest.Background`` calls it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml
from processes import end_with_parent, finish, kill, start

from robust_transfer import paths
from robust_transfer.davchev2019 import experiment
from robust_transfer.records.store import folder_name
from robust_transfer.runner import Runner

REDUCED = {"profile": "reduced", "train_size": 64, "validation_size": 32, "test_size": 40}
REDUCED |= {"epochs": 2, "transfer_epochs": 1, "batch_size": 32}
REDUCED |= {"training_steps": 2, "evaluation_steps": 2}
"""Every network of the profile smoke, in seconds."""
REDUCED_STUDY = {"study": "reduced", "repeats": 2, "source_train_size": 64, "source_epochs": 1}
REDUCED_TARGET = {"train_size": 64, "test_size": 40, "epochs": 1}
KILLED = "before_the_kill.json"
"""When the records were written that a killed run left, by their paths."""
UNBROKEN = "unbroken"
"""Folder of the same networks, trained and evaluated without a notebook and without a break."""
WORKERS = 2  # a training's last bits depend on how many cores a worker has


def reduced() -> None:
    """Everything at tiny sizes; killed amid the transfers, begun again, and done without a break.

    The notebooks that demonstrate train their few networks as in the profile smoke.
    """
    smaller(paths.PROFILES, **REDUCED)
    study = yaml.safe_load((paths.STUDIES / "smoke.yaml").read_text())
    targets = {name: target | REDUCED_TARGET for name, target in study["targets"].items()}
    smaller(paths.STUDIES, **REDUCED_STUDY, targets=targets)
    profile = experiment.read_profile(paths.PROFILES / "reduced.yaml")
    command = ("run", "--profile", "reduced", "--workers", str(WORKERS))
    written = kill_at(12, profile, start(paths.ROOT, *command))
    (paths.ROOT / KILLED).write_text(json.dumps(written))
    print(finish(start(paths.ROOT, *command)))
    unbroken(profile)


def smaller(folder: Path, **fields: object) -> None:
    """Write a parameter file that is smoke but for some fields."""
    smoke = yaml.safe_load((folder / "smoke.yaml").read_text())
    (folder / "reduced.yaml").write_text(yaml.safe_dump(smoke | fields))


def kill_at(count: int, profile: experiment.Profile, running: subprocess.Popen) -> dict[str, int]:
    """Kill a run, and all that it started, once it has finished so many networks of a profile."""
    folders = [paths.ROOT / "results" / folder_name(n.config) for n in experiment.grid(profile)]
    records = []
    while len(records) < count and running.poll() is None:
        time.sleep(0.1)
        records = [path / "record.json" for path in folders if (path / "record.json").exists()]
    kill(running.pid)
    running.communicate()
    return {str(path): path.stat().st_mtime_ns for path in records}


def unbroken(profile: experiment.Profile) -> None:
    """Train and evaluate the grid in one go."""
    runner = Runner(results_dir=str(paths.ROOT / UNBROKEN), workers=WORKERS)
    table = experiment.grid(profile)
    runner.train([network.config for network in table])
    runner.measure(experiment.wishes(table, profile))


def smoke() -> None:
    """What ``make reproduce`` does."""
    print(finish(start(paths.ROOT, "run", "--profile", "smoke")))
    print(finish(start(paths.ROOT, "publish", "--profile", "smoke")))


def published() -> None:
    """What ``make book`` does."""
    print(finish(start(paths.ROOT, "run", "--published")))


WAYS = {"reduced": reduced, "smoke": smoke, "published": published}
"""In the order in which they are gone."""

if __name__ == "__main__":
    end_with_parent()
    WAYS[sys.argv[1]]()
