"""Killed at random moments, again and again, a run ends with the files of one that was not."""

import json
import random
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import TINY
from processes import kill

from robust_transfer.attacks import PGD
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.records.store import HISTORY, RECORD, Store, folder_name
from robust_transfer.runner import Runner
from robust_transfer.training.loop import TrainingConfig

KILLS = 19
"""The pipeline is killed once more, see ``whole_way``."""
PROGRAM = """
import sys
from test_kills import NETWORKS, HOW, runner
if __name__ == "__main__":
    print("begun", flush=True)
    runner(sys.argv[1]).train(NETWORKS)
    runner(sys.argv[1]).evaluate(NETWORKS[:3], HOW)
"""


def network(name, **changes):
    return TrainingConfig(**TINY | {"name": name, "train_size": 192, "epochs": 4} | changes)


SOURCE = network("source", dataset="glyphs20")
SURROGATE = network("surrogate", network="densenet14", epochs=2)
NETWORKS = [
    network("pgd", attack=PGD(steps=3, random_start=True)),
    network("transfer", source=SOURCE, strategy="stage3"),
    network("adam", optimizer="adam", learning_rate=1e-3, schedule="one_cycle"),
    SURROGATE,
]
HOW = EvaluationConfig(surrogate=SURROGATE, test_size=500, steps=5)


def runner(folder):
    return Runner(results_dir=str(folder), device="cpu", workers=2)


def start(folder):
    """Train and evaluate in processes of their own, and wait until they are about to."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    path = ":".join(sys.path)
    begun = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert begun.stdout.readline() == "begun\n"
    return begun


def contents(folder):
    """Every file, without when it was made, how long that took and what vouches for that."""
    found = {}
    for path in sorted(folder.glob("*/*")):
        name = path.relative_to(folder).as_posix()
        if path.name == HISTORY:
            found[name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        elif path.suffix == ".json":
            said = json.loads(path.read_text())
            timed = {"seal", "seconds", "provenance"}
            found[name] = {key: value for key, value in said.items() if key not in timed}
            found[name].get("sha256", {}).pop(HISTORY, None) if path.name == RECORD else None
        elif path.is_file() and path.name != ".lock":
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_twenty_kills_change_no_file(tmp_path):
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
    started = time.monotonic()
    output, _ = start(tmp_path / "once").communicate()
    whole = time.monotonic() - started
    expected = contents(tmp_path / "once")
    assert len([name for name in expected if "evaluation-" in name]) == 3, output

    moments = random.Random(0)
    for _ in range(KILLS):
        running = start(tmp_path / "killed")
        time.sleep(moments.uniform(0, whole / 4))
        kill(running.pid)
        running.communicate()
    running = start(tmp_path / "killed")
    assert "failed" not in running.communicate()[0]
    assert contents(tmp_path / "killed") == expected

    shutil.rmtree(tmp_path / "killed" / folder_name(NETWORKS[0]))  # one network is left
    start(tmp_path / "killed").communicate()
    assert contents(tmp_path / "killed") == expected
    assert not list((tmp_path / "killed").rglob("*.damaged"))
    assert Store(tmp_path / "killed").find(NETWORKS[0]) is not None
