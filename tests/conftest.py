"""What tests share: tiny networks that really train, and copies that make their own books.

Tests that need the whole way come last; it is gone in the background while the others run.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Tests and the background share the cores: threads that wait by spinning would take them away.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import pytest
import safetensors.torch
import torch
from processes import kill
from whole_way import WAYS

from robust_transfer import paths
from robust_transfer.attacks import PGD
from robust_transfer.data import glyphs
from robust_transfer.davchev2019.experiment import Profile, read_profile
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.files import sha256, write_atomically, write_sealed
from robust_transfer.myakala2022.experiment import Study, read_study
from robust_transfer.networks.registry import build
from robust_transfer.records.store import RECORD, WEIGHTS, Store
from robust_transfer.training import loop, sharing
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


@pytest.fixture
def as_configured(monkeypatch):
    """Training in bf16 on a processor, too, that has to emulate it."""
    monkeypatch.setattr(loop, "arithmetic", lambda config, device: config.precision)


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


@dataclass(frozen=True)
class Made:
    """A copy of the checkout in which one of ``WAYS`` was gone, and what that printed."""

    root: Path
    name: str
    output: str

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def html(self) -> Path:
        return self.root / "_build" / "html"

    @property
    def profile(self) -> Profile:
        return read_profile(self.root / "notebooks" / "profiles" / f"{self.name}.yaml")

    @property
    def study(self) -> Study:
        return read_study(self.root / "notebooks" / "studies" / f"{self.name}.yaml")


class Background:
    """The whole ways that tests will ask for, one at a time beside the tests."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.waiting, self.folder, self.process, self.codes = names, folder, None, {}
        self.begin_next()

    def begin_next(self) -> None:
        if not self.waiting:
            return
        self.name = self.waiting.pop(0)
        copy = copy_checkout(self.folder / self.name)
        environment = os.environ | {"PYTHONPATH": str(copy / "src/lib")}
        with (self.folder / f"{self.name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "tests/whole_way.py", self.name],
                cwd=copy, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait(self, name: str) -> Made:
        """Wait until a way was gone, and begin the next."""
        while name not in self.codes:
            self.codes[self.name] = self.process.wait(timeout=3600)
            self.begin_next()
        output = (self.folder / f"{name}.log").read_text()
        assert self.codes[name] == 0, output[-3000:]
        return Made(self.folder / name, name, output)

    def stop(self) -> None:
        """End what nobody waits for any more."""
        if self.process is not None and self.process.poll() is None:
            kill(self.process.pid)


def copy_checkout(folder: Path) -> Path:
    """Copy the files that a clone would have, so that this tree stays as it is."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (paths.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((paths.ROOT / name).read_bytes())
    return folder


def way(item: pytest.Item) -> str:
    """Name of the whole way that a test needs, "" if none."""
    made = item.callspec.params.get("made") if hasattr(item, "callspec") else None
    return made or next((name for name in WAYS if name in item.fixturenames), "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what waits for a whole way last."""
    items.sort(key=lambda item: ["", *WAYS].index(way(item)))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not slow":
        terminalreporter.write_line("The fast tier. `make test-slow` runs the rest.")


@pytest.fixture(autouse=True, scope="session")
def background(request, tmp_path_factory):
    """Begins what the chosen tests will wait for."""
    needed = {way(item) for item in request.session.items}
    names = [name for name in WAYS if name in needed]
    background = Background(names, tmp_path_factory.mktemp("ways"))
    yield background
    background.stop()


@pytest.fixture(scope="session")
def reduced(background) -> Made:
    """Everything at tiny sizes, killed once on the way; see ``whole_way.reduced``."""
    return background.wait("reduced")


@pytest.fixture(scope="session")
def smoke(background) -> Made:
    """The whole way in the profile smoke; for slow tests."""
    return background.wait("smoke")


@pytest.fixture(scope="session")
def published(background) -> Made:
    """The published book, rebuilt from its records; for slow tests."""
    return background.wait("published")


@pytest.fixture(scope="session", params=["reduced", pytest.param("smoke", marks=pytest.mark.slow)])
def made(request, background) -> Made:
    """``reduced`` in the fast tier, ``smoke`` in the slow one."""
    return background.wait(request.param)


FAKE = """#!/bin/sh
if [ "$1" = -d ]; then echo start >> "$CALLS"; exit $REFUSES; fi
cat >> "$CALLS"
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """NVIDIA's command as one that records its calls, and a CUDA program likewise."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / sharing.SERVICE).write_text(FAKE)
    (tmp_path / "bin" / sharing.SERVICE).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("REFUSES", "0")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    program = "import os; open(os.environ['CALLS'], 'a').write('program\\n')"
    monkeypatch.setattr(sharing, "CUDA_PROGRAM", program)
    (tmp_path / "calls").write_text("")
    return lambda: (tmp_path / "calls").read_text().split()


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
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("seal")
    write_sealed(path, content | fields)
