"""Missing networks are trained side by side, sources first, and a failure costs only its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from conftest import alter, reweigh
from processes import descendants

from robust_transfer import runner as runner_module
from robust_transfer.attacks import PGD
from robust_transfer.data.layouts import Drawn
from robust_transfer.data.registry import DATASETS, load, load_divided
from robust_transfer.networks.registry import NETWORKS, build
from robust_transfer.runner import Runner, count_batches, count_weights, time_batch
from robust_transfer.training.engine import cores
from robust_transfer.training.loop import TrainingConfig, load_data


def two_workers(folder):
    return Runner(results_dir=str(folder), device="cpu", workers=2)


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name in state:
        assert torch.equal(state[name], other[name]), name


def snapshot(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory):
    """A transfer, its source, a baseline and a surrogate, trained by two workers."""
    folder = tmp_path_factory.mktemp("finished")
    wanted = [family[name] for name in ("transfer", "baseline", "surrogate")]
    found = two_workers(folder).train(wanted)
    assert [record.hash for record in found] == [config.hash for config in wanted]
    return folder


def test_sources_are_trained_too_and_nothing_is_left_over(finished, family):
    runner = two_workers(finished)
    for config in family.values():
        folder = runner.store.find(config).folder
        assert sorted(path.name for path in folder.iterdir()) == [
            *(".lock", "history.csv", "record.json", "weights.safetensors")
        ]
    assert len(list(finished.iterdir())) == len(family)


def test_a_second_run_trains_nothing(finished, family, capsys):
    before = snapshot(finished)
    records = two_workers(finished).train(list(family.values()))
    assert [record.hash for record in records] == [c.hash for c in family.values()]
    assert snapshot(finished) == before
    assert capsys.readouterr().out == ""


def test_the_last_network_left_is_computed_with_as_many_threads_as_the_first(family, tmp_path):
    runner, wanted = two_workers(tmp_path), [family["baseline"], family["surrogate"]]
    threads = [record.provenance["threads"] for record in runner.train(wanted)]
    assert threads == [max(1, cores() // 2)] * 2
    shutil.rmtree(runner.store.folder(wanted[1]))
    assert [record.provenance["threads"] for record in runner.train(wanted)] == threads


def test_what_workers_do_not_know_is_refused_before_they_begin(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda classes: build("resnet8", classes, 0))
    with pytest.raises(ValueError, match="network = 'mine': it is known in this process, and wor"):
        two_workers(tmp_path).train([tiny(network="mine")])
    monkeypatch.setitem(DATASETS, "mine", DATASETS["glyphs10"])
    with pytest.raises(ValueError, match="dataset = 'mine': it is known in this process, and wor"):
        two_workers(tmp_path).train([tiny(dataset="mine")])
    assert not list(tmp_path.iterdir())


def forget_images():
    load.cache_clear()
    load_divided.cache_clear()


def test_records_of_other_images_are_never_returned_without_a_word(
    family, how, tmp_path, monkeypatch, request
):
    request.addfinalizer(forget_images)
    runner, wanted = two_workers(tmp_path), [family["baseline"]]
    runner.train([family["baseline"], family["surrogate"]])
    runner.evaluate(wanted, how)
    drawn = Drawn.find

    def turned(self, split, count, data_dir):
        pictures, labels = drawn(self, split, count, data_dir)
        return pictures[::-1], labels[::-1].copy()

    def with_other(split):
        forget_images()
        monkeypatch.setattr(
            Drawn, "find", lambda self, asked, *rest: (turned if asked == split else drawn)(
                self, asked, *rest
            )
        )  # fmt: skip

    with_other("train")
    for attempt in (lambda: runner.train(wanted), lambda: runner.evaluate(wanted, how)):
        with pytest.raises(ValueError, match=r"data_dir = '': \w+ was trained on other images of"):
            attempt()
    with_other("test")
    with pytest.raises(ValueError, match="evaluations are of different test images"):
        runner.evaluate(wanted, how)
    with_other("none")
    assert runner.train(wanted) and runner.evaluate(wanted, how)


def test_a_failure_is_named_with_what_needs_it_and_costs_nothing_else(
    finished, family, tiny, tmp_path, capsys
):
    wild = tiny(name="wild", dataset="glyphs20", learning_rate=1e30)
    heir = tiny(name="heir", source=wild, strategy="head")
    runner = two_workers(tmp_path)
    with pytest.raises(RuntimeError, match="2 of 5 networks failed: ") as caught:
        runner.train([heir, family["transfer"], family["baseline"]])
    assert "wild: loss is nan in epoch 0" in str(caught.value)
    assert "heir needs wild" in str(caught.value)
    for config in (wild, heir):
        assert runner.store.find(config) is None
    for name in ("source", "transfer", "baseline"):
        assert_same(
            runner.store.state(family[name]), two_workers(finished).store.state(family[name])
        )
    output = capsys.readouterr().out
    assert "training 5 networks: wild, heir, source, transfer, pgd" in output
    assert "seconds on cpu" in output


def end_if_wild(config):
    time.sleep(0.5)  # the others are under way
    if config.name == "wild":
        os._exit(1)


def lose_the_device_if_wild(config):
    if config.name == "wild":
        raise torch.AcceleratorError("an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("work", "workers"), [(end_if_wild, 1), (end_if_wild, 2), (lose_the_device_if_wild, 1)]
)
def test_a_worker_that_dies_is_named_and_the_others_go_on(tiny, tmp_path, capsys, work, workers):
    configs = [tiny(name=name) for name in ("wild", "calm", "still")]
    configs.append(tiny(name="heir", source=configs[1], strategy="head"))
    runner = Runner(results_dir=str(tmp_path), device="cpu", workers=workers)
    with pytest.raises(RuntimeError, match=r"^1 of 4 networks failed: wild: .*terminated abruptly"):
        runner._run({c: partial(work, c) for c in configs}, "network", {*configs})
    assert "4/4" in capsys.readouterr().out


def test_networks_are_evaluated_once_in_the_order_asked_for(
    finished, family, how, tmp_path, capsys
):
    folder = shutil.copytree(finished, tmp_path / "records")
    runner, wanted = two_workers(folder), [family["transfer"], family["baseline"]]
    evaluations = runner.evaluate(wanted, how)
    assert [e.content["network"] for e in evaluations] == [config.hash for config in wanted]
    said = r"measuring 2 networks on up to 60 test images\nabout \d+ seconds on cpu\n"
    assert re.search(said, capsys.readouterr().out)
    before = snapshot(folder)
    again = runner.evaluate(wanted[::-1], how)
    assert [e.content for e in again] == [e.content for e in evaluations[::-1]]
    assert snapshot(folder) == before


def test_published_networks_are_not_trained(finished, family, tmp_path):
    runner = Runner(
        results_dir=str(tmp_path / "mine"), published_dir=str(finished), device="cpu", workers=2
    )
    records = runner.train(list(family.values()))
    assert [r.folder.parent for r in records] == len(family) * [finished]
    assert not (tmp_path / "mine").exists()


def test_what_was_published_without_weights_is_trained_where_it_is_evaluated(
    finished, family, how, tmp_path
):
    published = shutil.copytree(finished, tmp_path / "published")
    runner = Runner(
        results_dir=str(tmp_path / "mine"), published_dir=str(published), device="cpu", workers=2
    )
    (runner.store.find(family["baseline"]).folder / "weights.safetensors").unlink()
    assert runner.missing([family["baseline"]]) == []
    (evaluation,) = runner.evaluate([family["baseline"]], how)
    assert evaluation.content["network"] == family["baseline"].hash
    trained = [path.parent.name for path in (tmp_path / "mine").glob("*/weights.safetensors")]
    assert len(trained) == 1 and trained[0].startswith("pgd-")


def test_a_source_without_weights_is_announced_with_what_starts_from_it(
    finished, family, tiny, tmp_path
):
    published = shutil.copytree(finished, tmp_path / "published")
    runner = Runner(results_dir=str(tmp_path / "mine"), published_dir=str(published))
    (runner.store.find(family["source"]).folder / "weights.safetensors").unlink()
    other = tiny(name="other", source=family["source"], strategy="all")
    assert runner.missing([family["transfer"], other]) == [family["source"], other]


def test_a_source_trained_anew_does_not_void_what_was_published(finished, family, tmp_path):
    source, transfer = family["source"], family["transfer"]
    runner = Runner(
        results_dir=str(tmp_path / "mine"), published_dir=str(finished), device="cpu", workers=1
    )
    folder = shutil.copytree(runner.store.find(source).folder, runner.store.folder(source))
    reweigh(runner.store, source)
    assert runner.store.find(source).folder == folder
    assert runner.missing(list(family.values())) == []
    assert {record.folder.parent for record in runner.store.lineage(transfer)} == {finished}
    assert_same(runner.store.state(transfer), two_workers(finished).store.state(transfer))


def test_what_another_surrogate_voids_is_trained_too_where_it_has_no_weights(
    finished, family, how, tmp_path
):
    published = shutil.copytree(finished, tmp_path / "published")
    wanted = [family["baseline"], family["transfer"]]
    two_workers(published).evaluate(wanted, how)
    runner = Runner(
        results_dir=str(tmp_path / "mine"), published_dir=str(published), device="cpu", workers=2
    )
    baseline, transfer, surrogate = (
        runner.store.find(config).folder for config in (*wanted, family["surrogate"])
    )
    history = json.loads((surrogate / "record.json").read_text())["sha256"]["history.csv"]
    another = {"weights.safetensors": 64 * "0", "history.csv": history}
    alter(surrogate / "record.json", sha256=another)  # as if another machine had come to it
    alter(transfer / f"evaluation-{how.hash}.json", surrogate=64 * "0")
    (baseline / f"evaluation-{how.hash}.json").unlink()
    for folder in (baseline, transfer, surrogate):
        (folder / "weights.safetensors").unlink()
    runner.evaluate(wanted[1:], how)
    assert not (tmp_path / "mine").exists()
    evaluations = runner.evaluate(wanted, how)
    (made,) = {evaluation.content["surrogate"] for evaluation in evaluations}
    assert made == runner.store.find(family["surrogate"]).checksum
    assert made != 64 * "0"


def test_an_unfinished_network_cannot_be_evaluated(finished, family, tiny, how):
    with pytest.raises(FileNotFoundError, match="no finished record of unknown"):
        two_workers(finished).evaluate([family["baseline"], tiny(name="unknown")], how)


def test_missing_data_is_said_before_any_training(family, tiny, tmp_path):
    real = tiny(name="real", dataset="cifar10")
    with pytest.raises(FileNotFoundError, match="data_dir = ''"):
        two_workers(tmp_path).train([family["baseline"], real])
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_said_before_any_training(family, tmp_path, monkeypatch):
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(runner_module.shutil, "disk_usage", lambda folder: nearly_full)
    with pytest.raises(OSError, match=r"results_dir = .* MiB needed, 0 MiB free") as caught:
        two_workers(tmp_path).train([family["baseline"]])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_any_training(family, tmp_path):
    runner = Runner(results_dir=str(tmp_path), device="cuda", workers=2)
    with pytest.raises(ValueError, match="device = 'cuda': no CUDA GPU here; allowed are auto"):
        runner.train([family["baseline"]])
    assert list(tmp_path.iterdir()) == []
    assert Runner(device="auto").torch_device == torch.device("cpu")


ENDLESS = """
import sys
from robust_transfer.runner import Runner
from robust_transfer.training.loop import TrainingConfig

if __name__ == "__main__":
    Runner(results_dir=sys.argv[1], device="cpu", workers=1).train(
        [TrainingConfig(network="resnet8", dataset="glyphs10", train_size=32, validation_size=32,
                        batch_size=32, epochs=100_000)]
    )
"""


def test_workers_end_with_a_runner_that_was_killed(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "records")]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("records/*/checkpoint.safetensors")):
        assert runner.poll() is None
        time.sleep(0.1)
    _, *others = descendants(runner.pid)
    runner.kill()
    runner.wait()
    for _ in range(100):
        alive = [pid for pid in others if _runs(pid)]
        if not alive:
            return
        time.sleep(0.1)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    pytest.fail(f"{len(alive)} processes train on")


def _runs(pid):
    """Whether a process is there, and not only its exit code waiting for somebody to ask."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout[:1] not in ("", "Z")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": -1}, "workers = -1: "),
        ({"device": "tpu"}, "device = 'tpu': "),
        ({"data": "here"}, "unknown parameter data; known: data_dir, device, published_dir"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Runner(**fields)


PASSES = {
    "natural": ({}, 100 + 0.33 * 50),
    "pgd": ({"attack": PGD(steps=7)}, (2 + 0.67 * 7) * 100 + (0.66 + 0.67 * 7) * 50),
    "more epochs": ({"epochs": 6}, 3 * (100 + 0.33 * 50)),
}


@pytest.mark.parametrize(("changes", "images"), PASSES.values(), ids=PASSES.keys())
def test_the_estimate_counts_every_pass_of_training_attack_and_validation(tiny, changes, images):
    config = tiny(batch_size=25, **changes)
    assert count_batches(config, 100, 50) == pytest.approx(2 * images / 25)


def test_a_batch_takes_time_and_a_network_has_its_weights(tiny):
    config = tiny()
    assert time_batch(config, load_data(config, "")[0], torch.device("cpu")) > 0
    assert count_weights(TrainingConfig()) == 853_018


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_is_computed_by_as_many_threads_as_asked_for(family, tmp_path, threads):
    runner = Runner(results_dir=str(tmp_path), device="cpu", workers=1, threads=threads)
    (record,) = runner.train([family["surrogate"]])
    assert record.provenance["threads"] == threads
