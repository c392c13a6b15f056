"""Two machines share a store by a network file system that does not pass on their locks.

Both do the same work then, and one may have to begin again. No record is ever wrong.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from conftest import CPU

from robust_transfer import files
from robust_transfer.records import store as store_module
from robust_transfer.records.store import HISTORY, RECORD, WEIGHTS, Store
from robust_transfer.training.loop import load_data

MACHINE = """
import json, platform, sys, time
from pathlib import Path
import filelock

name, root, begin, asked = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
platform.node, Lock = lambda: name, filelock.FileLock

def unseen(path, **how):
    here = root.parent / name / Path(path).parent.name
    here.mkdir(parents=True, exist_ok=True)
    return Lock(here / ".lock", **how)

filelock.FileLock = unseen
import torch
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.records.store import Store
from robust_transfer.training.loop import TrainingConfig

torch.set_num_threads(1)
asked, store = json.loads(asked), Store(root)
time.sleep(max(0, begin - time.time()))
networks = [TrainingConfig(**fields) for fields in asked["networks"]]
for config in networks:
    store.get_or_train(config, "", "cpu")
how = EvaluationConfig(**asked["how"])
for config in networks:
    if config.dataset == how.surrogate.dataset:
        how.get_or_measure(store, config, "", torch.device("cpu"))
"""
"""A machine by this name, whose locks lie where no other one sees them."""
HERS = 0.123
"""An accuracy that no number of images out of those at hand gives, on whatever processor."""


@pytest.fixture
def machines(family, tmp_path, monkeypatch):
    """Train a baseline in a store on one of two machines, whose arithmetic is not the same."""
    config, train = family["baseline"], store_module.train
    best, progress = train(config, load_data(config, ""), CPU, tmp_path / "checkpoint", None)
    rows = [row | {"natural": HERS} for row in progress.history]
    done = {
        "mine": (best, progress),
        "hers": (best | {"head.bias": torch.full((10,), 7.0)}, replace(progress, history=rows)),
    }

    def on(machine):
        monkeypatch.setattr(store_module, "train", lambda *_: done[machine])
        return Store(tmp_path / "store").get_or_train(config, "", CPU)

    return on


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", [WEIGHTS, HISTORY, RECORD])
def test_a_record_vouches_for_what_its_own_machine_wrote(machines, monkeypatch, moment, when):
    """One machine makes a record from beginning to end just when the other writes a file of it."""
    write = files.write_atomically

    def interrupted(path, content, before=None):
        if path.name != moment:
            return write(path, content, before)
        monkeypatch.setattr(files, "write_atomically", write)
        steps = [lambda: write(path, content, before), lambda: machines("hers")]
        for step in steps if when == "after" else reversed(steps):
            step()

    monkeypatch.setattr(files, "write_atomically", interrupted)
    machines("mine")
    record = machines("hers")  # as found, or made anew if both have written over each other
    bias = safetensors.torch.load_file(record.folder / WEIGHTS)["head.bias"]
    hers = record.validation["natural"] == HERS, record.history["natural"][0] == HERS
    assert {*hers} == {bool((bias == 7).all())}


def test_what_another_machine_is_writing_stays(tmp_path):
    (tmp_path / ".weights.safetensors-x8f.elsewhere.half").write_bytes(b"half")
    with files.lock(tmp_path):
        assert (tmp_path / ".weights.safetensors-x8f.elsewhere.half").exists()


def test_two_machines_that_see_no_lock_of_each_other_leave_whole_records(
    trained, family, how, tmp_path
):
    asked = {"networks": [config.model_dump(mode="json") for config in family.values()]}
    asked = json.dumps(asked | {"how": how.model_dump(mode="json")})
    root, calls = tmp_path / "store", 0
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}

    def begin(name):
        command = [sys.executable, "-c", MACHINE, name, str(root), str(time.time() + 8), asked]
        return subprocess.Popen(command, env=environment)

    left = {name: begin(name) for name in ("one", "two")}
    while left:  # one that was in the other's way is called again, as an engine does
        calls += 1
        assert calls < 6
        left = {name: begin(name) for name, machine in left.items() if machine.wait(300)}
    for config in family.values():
        ours, theirs = (of.folder(config) for of in (trained, Store(root)))
        assert Store(root).find(config) is not None
        assert (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()
        if config.dataset == how.surrogate.dataset:
            assert how.find(Store(root), config) is not None
    assert not list(root.rglob("*.half"))
