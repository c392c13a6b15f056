"""Nothing is lost but the epoch under way when a process is killed or the disk is full."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch

from robust_transfer.attacks import PGD
from robust_transfer.files import set_aside, write_atomically
from robust_transfer.networks.registry import build
from robust_transfer.records.store import Store, rounded
from robust_transfer.training import engine
from robust_transfer.training.checkpoints import (
    Progress,
    before,
    history,
    load_checkpoint,
    save_checkpoint,
    threads,
)

TRAIN = """
import json, resource, signal, sys, torch
from robust_transfer.records.store import Store
from robust_transfer.training.loop import TrainingConfig

torch.set_num_threads(1)
root, config, full_after = sys.argv[1], TrainingConfig(**json.loads(sys.argv[2])), sys.argv[3]

def on_epoch(row):
    print("epoch", row["epoch"], flush=True)
    if str(row["epoch"]) == full_after:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
Store(root).get_or_train(config, "", torch.device("cpu"), on_epoch)
"""


def start(root, config, full_after="never"):
    """Train in a process of its own, printing each epoch as it is done."""
    command = [sys.executable, "-c", TRAIN, str(root), config.model_dump_json(), full_after]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_network(config, store, expected):
    for name, value in expected.state(config).items():
        assert torch.equal(store.state(config)[name], value), name
    columns = ["epoch", "loss", "natural", "adversarial"]
    ours, theirs = (s.find(config).history[columns] for s in (store, expected))
    assert ours.equals(theirs)


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """A configuration of a few seconds, and the store in which it ran without interruption."""
    attack = PGD(steps=3, random_start=True)
    config = tiny(attack=attack, train_size=512, epochs=5, decay_epochs=(3,))
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    store.get_or_train(config, "", torch.device("cpu"))
    return config, store


def test_a_killed_training_goes_on_and_ends_bit_equal(uninterrupted, tmp_path):
    config, expected = uninterrupted
    store = Store(tmp_path)
    checkpoint = store.folder(config) / "checkpoint.safetensors"
    victim = start(tmp_path, config)
    assert [victim.stdout.readline() for _ in range(2)] == ["epoch 0\n", "epoch 1\n"]
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    victim.communicate()
    done = len(history(checkpoint))
    assert store.find(config) is None and 2 <= done < config.epochs
    seconds = load_history(checkpoint)
    output, errors = start(tmp_path, config).communicate()
    assert output == "".join(f"epoch {k}\n" for k in range(done, config.epochs)), errors
    assert_same_network(config, store, expected)
    assert store.find(config).history.seconds[:done].tolist() == pytest.approx(seconds)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [
        *(".lock", "history.csv", "record.json", "weights.safetensors")
    ]


def load_history(checkpoint):
    model = build("resnet8", 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    identity = read_metadata(checkpoint)["identity"]
    return [
        r["seconds"] for r in load_checkpoint(checkpoint, identity, model, optimizer)[1].history
    ]


def read_metadata(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_a_full_disk_is_said_in_one_line_and_costs_one_epoch(uninterrupted, tmp_path):
    config, expected = uninterrupted
    store = Store(tmp_path)
    folder = store.folder(config)
    output, errors = start(tmp_path, config, full_after="2").communicate()
    assert output == "epoch 0\nepoch 1\nepoch 2\n"
    message = errors.strip().splitlines()[-1]
    assert f"{folder / 'checkpoint.safetensors'}: the disk is full; free " in message
    kept = [".lock", "checkpoint-before.safetensors", "checkpoint.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    assert len(history(folder / "checkpoint.safetensors")) == 3
    store.get_or_train(config, "", torch.device("cpu"))
    assert_same_network(config, store, expected)


def test_a_training_goes_on_with_the_threads_it_began_with(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "cores", lambda: 2)
    store, config, seen = Store(tmp_path), tiny(), []

    def interrupt(row):
        raise KeyboardInterrupt

    with engine.on_threads(2), pytest.raises(KeyboardInterrupt):
        store.get_or_train(config, "", torch.device("cpu"), interrupt)
    assert torch.get_num_threads() == 1
    record = store.get_or_train(
        config, "", torch.device("cpu"), lambda row: seen.append(torch.get_num_threads())
    )
    assert seen == [2] and record.provenance["threads"] == 2
    assert torch.get_num_threads() == 1


def test_what_a_damaged_checkpoint_says_of_itself_is_passed_over(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    for said in ({}, {"progress": "{", "threads": "x"}, {"progress": "[]", "threads": ""}):
        safetensors.torch.save_file({"w": torch.zeros(1)}, path, said)
        assert len(history(path)) == threads(path) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors.damaged"]


def test_writing_makes_folders_and_a_readable_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    for content in (b"first", b"second, longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, contents = tmp_path / "file", [letter * 3_000_000 for letter in (b"a", b"b")]
    write_atomically(path, contents[0])
    writer = threading.Thread(
        target=lambda: [write_atomically(path, contents[k % 2]) for k in range(30)]
    )
    writer.start()
    seen = set()
    while writer.is_alive():
        content = path.read_bytes()
        seen.add((content[:1], content[-1:], len(content)))
    writer.join()
    assert seen <= {(b"a", b"a", 3_000_000), (b"b", b"b", 3_000_000)}


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def trained_a_little():
    model = build("resnet8", 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model(torch.rand(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_a_checkpoint_brings_everything_back(tmp_path):
    model, optimizer = trained_a_little()
    best = {k: v.clone() for k, v in build("resnet8", 10, seed=9).state_dict().items()}
    progress = Progress([{"epoch": 0, "loss": 0.1 + 0.2, "adversarial": None}], 0, 1 / 3)
    save_checkpoint(tmp_path / "c", "me", model, optimizer, best, progress)
    other = build("resnet8", 10, seed=1)
    fresh = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    loaded_best, loaded = load_checkpoint(tmp_path / "c", "me", other, fresh)
    assert loaded == progress
    torch.testing.assert_close(loaded_best, best, rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    momenta, expected = (o.state_dict()["state"] for o in (fresh, optimizer))
    torch.testing.assert_close(momenta, expected, rtol=0, atol=0)
    assert len(history(tmp_path / "c")) == 1


def stepped_by(make):
    """A model and its optimiser after two steps, and fresh ones to load them into."""
    model, other = (build("resnet8", 10, seed=seed) for seed in (0, 1))
    optimizer, fresh = make(model.parameters()), make(other.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    return model, optimizer, other, fresh


def adam(weights):
    return torch.optim.Adam(weights, lr=1e-3)


def momentum(weights):
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9)


def plain(weights):
    return torch.optim.SGD(weights, lr=0.1)


@pytest.mark.parametrize("make", [adam, momentum, plain])
def test_the_state_of_every_optimiser_comes_back_in_its_layout(tmp_path, make):
    model, optimizer, other, fresh = stepped_by(make)
    save_checkpoint(tmp_path / "c", "me", model, optimizer, {}, Progress([]))
    load_checkpoint(tmp_path / "c", "me", other, fresh)
    expected, loaded = (o.state_dict()["state"] for o in (optimizer, fresh))
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0, check_stride=True)
    assert len(loaded) == (0 if make is plain else len(list(model.parameters())))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_is_named_and_the_epoch_before_is_used(tmp_path, capsys):
    model, optimizer = trained_a_little()
    path = tmp_path / "checkpoint.safetensors"
    for count in (1, 2, 3):
        save_checkpoint(path, "me", model, optimizer, {}, Progress([{"epoch": 0}] * count))
    whole = {p: p.read_bytes() for p in (path, before(path))}
    size = len(whole[path])
    header = int.from_bytes(whole[path][:8], "little") + 8
    for position in [0, 7, *range(8, header, header // 40), *range(header, size, size // 20)]:
        for file, content in whole.items():
            file.write_bytes(content)
        flip(path, position)
        assert threads(path) == 1
        assert load_checkpoint(path, "me", model, optimizer)[1].history == [{"epoch": 0}] * 2
        assert f"set aside {path}" in capsys.readouterr().out
    flip(before(path), 100)
    assert load_checkpoint(path, "me", model, optimizer) is None


def test_a_training_goes_on_from_the_epoch_before_a_flipped_bit(uninterrupted, tmp_path, capsys):
    config, expected = uninterrupted
    store, checkpoint = Store(tmp_path), Store(tmp_path).folder(config) / "checkpoint.safetensors"

    def interrupt(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_train(config, "", torch.device("cpu"), interrupt)
    flip(checkpoint, 50_000)
    epochs = []
    store.get_or_train(config, "", torch.device("cpu"), lambda row: epochs.append(row["epoch"]))
    assert epochs == [2, 3, 4] and "its checksum is not the one in it" in capsys.readouterr().out
    assert_same_network(config, store, expected)
    left = {path.name for path in checkpoint.parent.iterdir()}
    assert left == {
        *(".lock", "history.csv", "record.json", "weights.safetensors"),
        "checkpoint.safetensors.damaged",
    }


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def garble(path):
    path.write_bytes(b"not tensors at all")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, garble, empty])
def test_a_damaged_checkpoint_is_named_and_set_aside(tmp_path, capsys, damage):
    model, optimizer = trained_a_little()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, "me", model, optimizer, {}, Progress([{"epoch": 0}]))
    damage(path)
    assert len(history(path)) == 0
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert load_checkpoint(path, "me", model, optimizer) is None
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert f"set aside {path} as {path.name}.damaged" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == [f"{path.name}.damaged"]


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path):
    assert load_checkpoint(tmp_path / "none", "me", *trained_a_little()) is None
    assert len(history(tmp_path / "none")) == 0


def test_a_checkpoint_that_goes_while_it_is_looked_at_counts_as_none(tmp_path, monkeypatch):
    model, optimizer = trained_a_little()
    save_checkpoint(tmp_path / "c", "me", model, optimizer, {}, Progress([{"epoch": 0}]))
    assert len(history(tmp_path / "c")) == 1
    opened = torch.UntypedStorage.from_file

    def finished_meanwhile(*arguments, **named):
        (tmp_path / "c").unlink()
        return opened(*arguments, **named)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", finished_meanwhile)
    assert history(tmp_path / "c") == []


def test_what_is_set_aside_is_kept_and_replaces_what_was_set_aside_before(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "file").write_text(content)
        set_aside(tmp_path / "file", "a reason")
    assert [path.name for path in tmp_path.iterdir()] == ["file.damaged"]
    assert (tmp_path / "file.damaged").read_text() == "second"


def test_matrices_and_kernels_are_stored_in_half_precision_and_nothing_else():
    state = trained_a_little()[0].state_dict()
    stored = rounded(state)
    for name, value in stored.items():
        large = name.endswith("weight") and state[name].ndim in (2, 4)
        large |= name.startswith("normalise")
        assert value.dtype == (torch.float16 if large else state[name].dtype), name
        torch.testing.assert_close(value.to(state[name].dtype), state[name], rtol=1e-3, atol=1e-6)
    assert stored["stem.1.running_var"].dtype == torch.float32
    assert stored["stem.1.num_batches_tracked"].dtype == torch.int64
