"""A finished network is found, a damaged one named and computed anew, a published one kept."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE

import conftest
import pytest
import safetensors.torch
import torch
from conftest import reweigh

from robust_transfer import files, paths
from robust_transfer.files import sha256, write_atomically, write_sealed
from robust_transfer.records.provenance import commit
from robust_transfer.records.store import HISTORY, RECORD, WEIGHTS, Store, rounded
from robust_transfer.training.loop import load_data, train

CPU = torch.device("cpu")


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name in state:
        assert torch.equal(state[name], other[name]), name


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


def forbid(row):
    raise AssertionError("trained again")


def test_a_finished_network_is_not_trained_again(trained, family):
    before = snapshot(trained.root)
    for config in family.values():
        record = trained.get_or_train(config, "", CPU, forbid)
        assert record.folder == trained.folder(config)
    assert snapshot(trained.root) == before


def test_a_changed_parameter_is_another_network(trained, tiny):
    assert trained.find(tiny(name="source", dataset="glyphs20")) is not None
    assert trained.find(tiny(name="source", dataset="glyphs20", seed=1)) is None


def test_a_folder_says_which_network_seed_and_hash_it_holds(trained, tiny):
    config = tiny(name="pgd-nat-head", seed=3)
    assert trained.folder(config).name == f"pgd-nat-head-s3-{config.hash}"
    assert {p.name for p in trained.find(tiny(name="source", dataset="glyphs20")).folder.iterdir()}


def test_a_record_tells_what_was_trained_how_and_where(trained, family):
    config = family["baseline"]
    record = trained.find(config)
    history = record.history
    assert history.columns.tolist() == [
        *("epoch", "learning_rate", "loss", "natural", "adversarial", "seconds")
    ]
    assert history.epoch.tolist() == [0, 1, 2]
    best = history.iloc[record.selected_epoch]
    assert record.validation == {k: best[k] for k in ("natural", "adversarial")}
    assert record.seconds == pytest.approx(history.seconds.sum(), abs=1e-3)
    assert record.config == config
    assert record.hash == config.hash
    images = load_data(config, "")
    assert record.data["training"] == images[0].fingerprint
    assert record.data["validation"] == images[1].fingerprint
    assert record.provenance["torch"] == torch.__version__
    assert record.provenance["threads"] == torch.get_num_threads()
    assert record.provenance.keys() == {
        *("device", "threads", "python", "torch", "torchvision", "numpy", "commit", "finished")
    }
    assert all(record.provenance.values())
    assert record.checksum == sha256(record.folder / WEIGHTS)
    assert record.source is None
    assert trained.find(family["transfer"]).source == trained.find(family["source"]).checksum
    with pytest.raises(ValueError, match="frozen"):
        record.seconds = 0.0


def test_a_record_is_written_as_it_is_read(trained, family):
    for config in family.values():
        record = trained.find(config)
        written = trained.read_sealed(record.folder / RECORD)
        assert list(written) == [
            *("hash", "config", "selected_epoch", "validation", "seconds", "data", "source"),
            *("sha256", "provenance"),
        ]
        assert record.model_dump(mode="json") == written
        assert written["config"] == config.model_dump(mode="json")


def test_the_validation_of_a_record_is_that_of_the_selected_epoch(store, tiny):
    tried = (tiny(epochs=4, learning_rate=1.0, validation_size=100, seed=k) for k in range(20))
    records_made = (store.get_or_train(config, "", CPU) for config in tried)
    record = next(r for r in records_made if r.history.natural.idxmax() < 3)
    natural = record.history.natural
    assert record.selected_epoch == natural.idxmax()
    assert record.validation == {"natural": natural.max(), "adversarial": None}


def test_stored_weights_are_the_selected_ones_in_half_precision(trained, family, tmp_path):
    config = family["baseline"]
    best, _ = train(config, load_data(config, ""), CPU, tmp_path / "checkpoint")
    expected = rounded(best)
    stored = safetensors.torch.load_file(trained.folder(config) / WEIGHTS)
    assert_same(stored, expected)
    assert stored["stage3.0.conv1.weight"].dtype == torch.float16
    assert_same(
        trained.state(config),
        {k: v.float() if v.is_floating_point() else v for k, v in expected.items()},
    )


STORED = {
    ("head", "freeze"): lambda name: name.startswith("head."),
    ("head", "adapt"): lambda name: name.startswith("head.") or "running" in name or "num_" in name,
    ("stage3", "freeze"): lambda name: name.startswith(("head.", "stage3.")),
}


@pytest.mark.parametrize(("strategy", "policy"), STORED)
def test_a_transfer_stores_only_what_differs_from_its_source(
    store, family, tiny, tmp_path, strategy, policy
):
    source = family["source"]
    config = tiny(source=source, strategy=strategy, frozen_batch_norm=policy, epochs=1)
    store.get_or_train(config, "", CPU)
    files = [store.folder(c) / WEIGHTS for c in (config, source)]
    stored = safetensors.torch.load_file(files[0])
    whole = store.state(config)
    assert stored.keys() == {name for name in whole if STORED[strategy, policy](name)}
    assert files[0].stat().st_size < 0.9 * files[1].stat().st_size
    best, _ = train(config, load_data(config, ""), CPU, tmp_path / "c", store.state(source))
    assert_same(
        whole, {k: v.float() if v.is_floating_point() else v for k, v in rounded(best).items()}
    )


def test_a_finished_network_is_loaded_in_eval_mode_with_its_weights(trained, family):
    for config in family.values():
        model = trained.model(config)
        assert not any(module.training for module in model.modules())
        assert_same(model.state_dict(), trained.state(config))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def remove(path):
    path.unlink()


def alter(path):
    content = path.read_text()
    digit = next(c for c in reversed(content) if c.isdigit())
    before, after = content.rsplit(digit, 1)
    path.write_text(before + str((int(digit) + 1) % 10) + after)


def improve(path):
    content = json.loads(path.read_text())
    content["validation"]["natural"] = 0.99
    path.write_text(json.dumps(content))


DAMAGES = [
    (WEIGHTS, truncate, WEIGHTS),
    (HISTORY, remove, HISTORY),
    (HISTORY, alter, HISTORY),
    (RECORD, truncate, RECORD),
    (RECORD, improve, "altered"),
]


@pytest.mark.parametrize(("name", "damage", "named"), DAMAGES)
def test_a_damaged_record_is_named_set_aside_and_trained_to_the_same_weights(
    store, trained, family, capsys, name, damage, named
):
    config = family["source"]
    damage(store.folder(config) / name)
    assert store.find(config) is None
    message = capsys.readouterr().out
    assert "set aside" in message and named in message and str(store.folder(config)) in message
    epochs = []
    record = store.get_or_train(config, "", CPU, epochs.append)
    assert len(epochs) == config.epochs
    assert record.folder == store.folder(config)
    assert list(store.folder(config).glob("*.damaged"))
    assert_same(store.state(config), trained.state(config))
    assert store.find(family["transfer"]) is not None


def test_a_record_without_weights_stays_for_its_numbers_and_is_trained_anew_for_them(
    store, trained, family, capsys
):
    config = family["source"]
    remove(store.folder(config) / WEIGHTS)
    assert store.find(config) is not None and store.find(config, weights=True) is None
    assert store.get_or_train(config, "", CPU).folder == store.folder(config)
    assert_same(store.state(config), trained.state(config))
    assert "set aside" not in capsys.readouterr().out


def test_a_record_of_another_configuration_is_not_taken(store, family, tiny, capsys):
    config, other = family["source"], tiny(name="other")
    store.folder(config).rename(store.folder(other))
    assert store.find(other) is None
    assert "its configuration is another one" in capsys.readouterr().out


def test_a_transfer_is_void_once_its_source_has_other_weights(store, family):
    assert store.find(family["transfer"]) is not None
    reweigh(store, family["source"])
    assert store.find(family["source"]) is not None
    assert store.find(family["transfer"]) is None
    epochs = []
    store.get_or_train(family["transfer"], "", CPU, epochs.append)
    assert len(epochs) == family["transfer"].epochs


def test_a_transfer_trains_its_source_first(tmp_path, family, trained):
    store = Store(tmp_path)
    store.get_or_train(family["transfer"], "", CPU)
    for network in ("source", "transfer"):
        assert_same(store.state(family[network]), trained.state(family[network]))


def test_published_networks_are_taken_and_never_written_to(trained, family, tiny, tmp_path):
    before = snapshot(trained.root)
    layered = Store(tmp_path / "mine", published=trained.root)
    for config in family.values():
        assert layered.get_or_train(config, "", CPU, forbid).folder == trained.folder(config)
        assert_same(layered.state(config), trained.state(config))
    assert not layered.root.exists()
    mine = tiny(name="mine", source=family["source"], strategy="head", epochs=1)
    assert layered.get_or_train(mine, "", CPU).folder == layered.folder(mine)
    assert [path.name for path in layered.root.iterdir()] == [layered.folder(mine).name]
    assert snapshot(trained.root) == before


def test_two_who_want_the_same_network_train_it_once(tmp_path, tiny):
    config, epochs = tiny(), []
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(Store(tmp_path).get_or_train, config, "", CPU, epochs.append)
            for _ in range(2)
        ]
    assert jobs[0].result() == jobs[1].result()
    assert [row["epoch"] for row in epochs] == [0, 1]


def test_epochs_done_counts_finished_and_interrupted_trainings(trained, family, tiny, tmp_path):
    assert trained.epochs_done(family["baseline"]) == 3

    def interrupt(row):
        raise KeyboardInterrupt

    store, config = Store(tmp_path), tiny(name="interrupted")
    assert store.epochs_done(config) == 0
    with pytest.raises(KeyboardInterrupt):
        store.get_or_train(config, "", CPU, interrupt)
    assert store.epochs_done(config) == 1


def test_epochs_of_a_network_published_without_weights_are_counted_anew(trained, family, tmp_path):
    config = family["baseline"]
    shutil.copytree(trained.folder(config), Store(tmp_path).folder(config))
    (Store(tmp_path).folder(config) / "weights.safetensors").unlink()
    assert Store(tmp_path / "new", tmp_path).epochs_done(config) == 0


def test_weights_of_an_unfinished_network_are_refused_by_name(trained, tiny):
    config = tiny(name="unknown")
    with pytest.raises(FileNotFoundError, match=f"{config.hash}: no finished record of unknown"):
        trained.model(config)


def test_a_seal_breaks_with_any_change(tmp_path):
    store = Store(tmp_path)
    path, content = tmp_path / "record.json", {"n": 3, "nested": {"x": [0.1, None]}}
    write_sealed(path, content)
    assert store.read_sealed(path) == content
    write_sealed(path, content | {"n": 4})
    path.write_text(path.read_text().replace("4", "5", 1))
    assert store.read_sealed(path) is None
    assert store.read_sealed(path) is None and not path.exists()


def test_a_damaged_published_network_is_passed_over_and_left_where_it_is(store, family, tmp_path):
    config = family["source"]
    truncate(store.folder(config) / WEIGHTS)
    before = snapshot(store.root)
    layered = Store(tmp_path / "mine", published=store.root)
    assert layered.get_or_train(config, "", CPU).folder == layered.folder(config)
    assert snapshot(store.root) == before


def test_a_look_during_the_last_write_does_not_damage_a_network_trained_anew(
    store, family, monkeypatch
):
    """The runner's progress bar looks into the store while a worker finishes a network."""
    config, write = family["transfer"], write_atomically
    reweigh(store, family["source"])

    def write_and_look(path, content):
        write(path, content)
        store.find(config)

    monkeypatch.setattr(files, "write_atomically", write_and_look)
    store.get_or_train(config, "", CPU)
    assert store.find(config) is not None


def test_a_record_of_a_later_version_is_named_and_left_alone(store, family):
    config = family["baseline"]
    path = store.folder(config) / RECORD
    content = json.loads(path.read_text())
    conftest.alter(path, config=content["config"] | {"ema": 0.999})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^{path}: config: unknown parameter ema; known: att"):
        store.find(config)
    assert path.read_bytes() == before


def test_only_known_files_are_taken_from_a_record(store, family):
    path = store.folder(family["baseline"]) / RECORD
    content = json.loads(path.read_text())
    conftest.alter(path, sha256=content["sha256"] | {"../../stolen": "0" * 64})
    with pytest.raises(ValueError, match=f"^{path}: sha256.../../stolen"):
        store.find(family["baseline"])


def test_what_a_kill_was_writing_goes_under_the_lock(tmp_path):
    for name in (f".weights.safetensors-x8f{files.HALF}", f".record.json-1{files.HALF}"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "record.json").write_bytes(b"whole")
    with files.lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "record.json"}
        with files.lock(tmp_path):  # its holder may take it again
            pass


def test_a_second_one_waits_for_the_lock_and_says_so(tmp_path, capfd):
    program = "import sys; from pathlib import Path; from robust_transfer.files import lock\n"
    program += "with lock(Path(sys.argv[1])): print('in', flush=True)"
    with files.lock(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=PIPE)
        waits = f"{tmp_path}: another process is at work here; waiting for it\n"
        assert other.stdout.readline().decode() == waits and other.poll() is None
    assert other.communicate(timeout=60)[0] == b"in\n"


def test_the_commit_is_never_that_of_another_repository(tmp_path, monkeypatch):
    quiet = {"cwd": tmp_path, "check": True, "capture_output": True}
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init"], ["add", "."], [*who, "commit", "--allow-empty", "-m", "another"]):
        subprocess.run(["git", *words], **quiet)
    copy = tmp_path / "copied" / "src" / "lib" / "robust_transfer"
    shutil.copytree(paths.ROOT / "src/lib/robust_transfer", copy)
    program = "from robust_transfer.records.provenance import commit; print(commit())"
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    environment.pop("COMMIT", None)
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "unknown\n"


def test_without_git_the_environment_says_the_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COMMIT", "0123abc")
    assert commit.__wrapped__() == "0123abc"
    monkeypatch.delenv("COMMIT")
    assert commit.__wrapped__() == "unknown"
