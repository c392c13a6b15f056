"""What tests share: tiny networks that really train, and a checkout that makes its own book."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robust_transfer import paths
from robust_transfer.attacks import PGD
from robust_transfer.data import glyphs
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.files import sha256, write_atomically, write_sealed
from robust_transfer.networks.registry import build
from robust_transfer.records.store import RECORD, WEIGHTS, Store
from robust_transfer.training.loop import TrainingConfig

CPU = torch.device("cpu")
TINY = {
    "network": "resnet8",
    "dataset": "glyphs10",
    "train_size": 96,
    "validation_size": 32,
    "epochs": 2,
    "decay_epochs": (),
    "batch_size": 32,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """Make a tiny training configuration with some fields changed."""
    return lambda **changes: TrainingConfig(**TINY | changes)


@pytest.fixture(scope="session")
def family(tiny):
    """Configurations of a baseline, a source, a transfer that adapts its head, and a surrogate."""
    source = tiny(name="source", dataset="glyphs20")
    inherited = {"source": source, "strategy": "head"}
    return {
        "baseline": tiny(name="pgd", attack=PGD(steps=2), train_size=256, epochs=3),
        "source": source,
        "transfer": tiny(name="transfer", **inherited),
        "surrogate": tiny(name="surrogate", network="densenet14", epochs=1),
    }


@pytest.fixture(scope="session")
def trained(family, tmp_path_factory):
    """Store with the finished family; not to be changed, see ``store``."""
    store = Store(tmp_path_factory.mktemp("trained"))
    for config in family.values():
        store.get_or_train(config, "", CPU)
    return store


@pytest.fixture
def store(trained, tmp_path):
    """A copy of the finished family's store that a test may damage."""
    return Store(shutil.copytree(trained.root, tmp_path / "records"))


@pytest.fixture(scope="session")
def how(family):
    """A tiny evaluation."""
    return EvaluationConfig(surrogate=family["surrogate"], test_size=60, steps=2)


@pytest.fixture
def model():
    """A freshly built resnet8 for ten classes, in train mode."""
    return build("resnet8", 10, seed=1)


@pytest.fixture(scope="session")
def batch():
    """Sixteen embedded images, float in [0, 1], and their labels."""
    pixels, labels = glyphs.draw("glyphs10", "train", 16)
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the files that a clone would have, so that this tree stays as it is."""
    copy = tmp_path_factory.mktemp("checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (paths.ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((paths.ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="session")
def smoke(checkout) -> Path:
    """The checkout after the whole way in the profile smoke."""
    finish(start(checkout, "run", "--profile", "smoke", "--results-dir", "fresh"))
    return checkout


def reweigh(store: Store, config: TrainingConfig) -> None:
    """Give a finished network other weights, as if it had been trained on another machine."""
    folder = store.folder(config)
    state = safetensors.torch.load_file(folder / WEIGHTS)
    state["head.weight"] += 1
    write_atomically(folder / WEIGHTS, safetensors.torch.save(state))
    content = store.read_sealed(folder / RECORD)
    content["sha256"][WEIGHTS] = sha256(folder / WEIGHTS)
    write_sealed(folder / RECORD, content)


def alter(path: Path, **fields) -> None:
    """Make a sealed record say something else."""
    content = json.loads(path.read_text())
    content.pop("seal")
    write_sealed(path, content | fields)


def start(checkout: Path, *arguments: str) -> subprocess.Popen:
    """Begin a command of the library in a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src/lib")}
    return subprocess.Popen(
        [sys.executable, "-m", "robust_transfer", *arguments],
        cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """Wait for a command that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output[-3000:]
    return output


def descendants(pid: int) -> list[int]:
    """A process and those that it started, and they, parents first."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for process in found:
        found += [child for child, parent in parents if parent == process]
    return found
