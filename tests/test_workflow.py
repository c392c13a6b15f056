"""The pipeline's work as jobs: planned without an engine, done by Snakemake and by Slurm."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import slurm
from conftest import Made, copy_checkout
from processes import kill
from test_kills import contents

from robust_transfer import paths
from robust_transfer.book import cluster, costs, jobs, pipeline
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import profile_path
from robust_transfer.myakala2022.experiment import cells
from robust_transfer.records.store import WEIGHTS
from workflow.__main__ import main

SNAKEMAKE = paths.ROOT / ".venv" / "cluster" / "bin" / "snakemake"
needs_snakemake = pytest.mark.skipif(
    not SNAKEMAKE.exists(), reason="no Snakemake: `make .venv/cluster/installed`"
)
SIZES = [("cpu", 1, 0), ("cpu", 2, 0.5), ("cuda", 3, 10)]
"""What a job computes on, networks side by side, and its least minutes."""


def of(name):
    return jobs.experiments(profile_path(name))


@pytest.fixture(scope="module", params=["smoke", "laptop", "fast", "paper"])
def scale(request):
    return of(request.param)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jobs_make_what_the_pipeline_makes_each_once_and_in_order(scale, size):
    profile, study = scale
    grid = experiment.grid(profile) + experiment.again(profile)
    asked = {jobs.Piece(network.config).file for network in grid}
    asked |= {jobs.Piece(*wish).file for wish in experiment.wishes(grid, profile)}
    for cell in cells(study) if study else ():
        asked |= {jobs.Piece(c, how).file for c in cell.configs for how in (None, cell.budgets)}
        asked |= {jobs.Piece(c.source).file for c in cell.configs if c.source}
    planned = jobs.plan(profile, study, *size)
    made = [file for job in planned.values() for file in job.makes]
    assert sorted(made) == sorted(asked)
    known, done, names = jobs.pieces(profile, study), set(), []
    for name, job in planned.items():
        assert {*job.after} <= {*names}
        there = {file for other in job.after for file in planned[other].makes} | {*job.makes}
        assert {need for file in job.makes for need in known[file].needs} <= there
        done |= {*job.makes}
        names.append(name)
    assert names[-1] == jobs.BOOK and [*planned[jobs.BOOK].after] == names[:-1]


def test_dear_networks_have_a_job_each_and_cheap_ones_share_it(scale):
    profile, study = scale
    one_each = jobs.plan(profile, study, "cpu", 1, 0)
    networks = {c for unit in jobs.units(profile, study)["train"] for c in unit}
    assert len([name for name in one_each if name.startswith("train-")]) == len(networks)
    device, workers, least = "cpu", 2, 20
    for kind, of_kind in jobs.units(profile, study).items():
        groups = jobs.gather(of_kind, device, workers, 60 * least)
        assert [unit for group in groups for unit in group] == of_kind
        for group in groups if len(groups) > 1 else ():
            assert jobs.cost(group, device, workers) >= 60 * least, kind
        for group in groups[:-1]:  # without its last network it would be too short, or too few
            shorter = group[:-1]
            networks = {piece.config for unit in shorter for piece in unit}
            short = jobs.cost(shorter, device, workers) < 60 * least if shorter else True
            assert short or len(networks) < workers


def test_a_job_may_take_longer_than_its_like_took(scale):
    profile, study = scale
    for job in jobs.plan(profile, study, "cuda", 3, 10).values():
        known = jobs.pieces(profile, study)
        seconds = [costs.seconds(known[f].config, known[f].how, "cuda") for f in job.makes]
        assert 60 * job.minutes >= 2 * sum(seconds) / 3 and job.gpu == bool(job.makes)


def test_what_a_network_costs_is_what_its_like_took():
    profile, _ = of("fast")
    networks = {network.id: network.config for network in experiment.grid(profile)}
    found = json.loads(next(paths.PUBLISHED.glob("fast/surrogate-*/record.json")).read_text())
    on_gpu = costs.seconds(networks["surrogate"], None, "cuda")  # there is one record of its kind
    assert on_gpu == pytest.approx(found["seconds"])
    shorter = networks["surrogate"].model_copy(update={"epochs": 6})
    assert costs.seconds(shorter, None, "cuda") == pytest.approx(on_gpu / 2)
    assert costs.seconds(networks["pgd"], None, "cpu") > 10 * costs.seconds(
        networks["pgd"], None, "cuda"
    )
    assert costs.is_recorded(networks["pgd"], None, "cuda")


def test_a_network_of_a_kind_without_a_record_counts_as_the_slowest():
    _, study = of("paper")
    vit = next(cell for cell in cells(study) if "vit" in cell.network)
    config, small = vit.configs[0], vit.configs[0].model_copy(update={"image_size": 32})
    assert not costs.is_recorded(config, None, "cuda")
    factor = costs.seconds(config, None, "cuda") / costs.seconds(small, None, "cuda")
    assert factor == pytest.approx((224 / 32) ** 2)


def test_the_book_adds_up_what_jobs_take():
    table = cluster.scales()
    profile, study = of("fast")
    planned = jobs.plan(profile, study, "cuda", 3, 10)  # as for Slurm
    known = jobs.pieces(profile, study)
    row = table.loc["fast"]
    assert row["networks"] + row["measurements"] == sum(len(job.makes) for job in planned.values())
    assert row["GPU jobs"] == len(planned) - 1 and row["by GPU records (%)"] == 100
    seconds = sum(costs.seconds(piece.config, piece.how, "cuda") for piece in known.values())
    assert 3600 * row["GPU hours"] == pytest.approx(seconds / 3)
    hours = table["GPU hours"]
    once, five = (hours[f"paper, {seeds}without its study"] for seeds in ("", "five seeds, "))
    assert once < five < hours["paper"]


def test_what_was_never_measured_on_such_a_device_is_not_guessed(monkeypatch):
    profile = of("smoke")[0]
    network = experiment.grid(profile)[0].config
    monkeypatch.setattr(costs, "_recorded", lambda: defaultdict(dict))
    costs.seconds.cache_clear()
    with pytest.raises(ValueError, match=r"^device = 'cuda': no record in .*; allowed is one on"):
        costs.seconds(network, None, "cuda")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: command"),
        (["walk"], 2, "argument command: invalid choice: 'walk'"),
        (["job"], 2, "plan or job NAME: a name is given to a job, and only to one"),
        (["plan", "pgd"], 2, "plan or job NAME: a name is given to a job, and only to one"),
        (["plan", "--workers", "0"], 2, "argument --workers: 0: allowed are whole numbers from 1"),
        (["plan", "--least", "-1"], 2, "argument --least: -1: allowed are minutes from 0"),
        (["plan", "--least", "soon"], 2, "argument --least: soon: allowed are minutes from 0"),
        (["plan", "--device", "tpu"], 2, "argument --device: invalid choice: 'tpu'"),
        (["plan", "--profile", "slow"], 1, "profile = 'slow': allowed are fast, "),
        (["plan", "--profile", "fast"], 1, "data_dir = '': cifar"),
        (["job", "pgd"], 1, "results_dir = .*: nothing is planned there for smoke; allowed"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(tmp_path, capfd, arguments, code, message):
    assert main([*arguments, "--results-dir", str(tmp_path)] if arguments else []) == code
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"error: {message}.*\n", err)
    assert not any(tmp_path.iterdir())


def test_a_job_that_is_not_planned_is_refused(tmp_path, capfd):
    assert main(["plan", "--results-dir", str(tmp_path)]) == 0
    assert main(["job", "train-all", "--results-dir", str(tmp_path)]) == 1
    assert capfd.readouterr().err.startswith("error: job = 'train-all': allowed are train-")


def snakemake(copy, results, made, *words, place="local", environment=os.environ, **plan):
    """Begin Snakemake in a copy of the checkout, with small jobs."""
    given = {"python": sys.executable, "profile": made.name, "results_dir": results, "least": 0.2}
    command = [SNAKEMAKE, "--profile", f"workflow/profiles/{place}", *words, "--config"]
    command += [f"{key}={value}" for key, value in (given | plan).items()]
    environment = environment | {"PYTHONPATH": str(copy / "src/lib")}
    return subprocess.Popen(
        command, cwd=copy, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def checkout_with(made: Made, folder: Path) -> Path:
    """A copy of the checkout that has the profile and the study of a way, and builds own pages."""
    copy = copy_checkout(folder)
    for kind in ("profiles", "studies"):
        name = f"notebooks/{kind}/{made.name}.yaml"
        shutil.copy(made.root / name, copy / name)
    return copy


def written(results: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in results.glob("*/*.json")}


def assert_pipelines(results: Path, made: Made) -> None:
    """Records, weights, histories, measurements, examples: all but seconds and provenance."""
    known = jobs.pieces(made.profile, made.study)
    folders = {Path(file).parent.name for file in known}
    ours, theirs = (
        {
            name: content
            for name, content in contents(folder).items()
            if name.split("/")[0] in folders and not name.endswith("/flow.json")  # the notebooks'
        }
        for folder in (results, made.results)
    )
    assert known.keys() <= ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []


@dataclass(frozen=True)
class ByJobs:
    """What became of a grid that Snakemake made, killed once and hindered once on the way."""

    made: Made
    copy: Path
    hindered: str
    after_kill: dict[str, int]
    after_failure: dict[str, int]
    failed: subprocess.CompletedProcess
    logs: dict[str, str]
    again: str

    @property
    def results(self) -> Path:
        return self.copy / "results"


@pytest.fixture(scope="module")
def by_jobs(made, tmp_path_factory):
    copy = checkout_with(made, tmp_path_factory.mktemp("jobs") / "copy")
    rest = () if made.name == "smoke" else ("--omit-from", "book")  # minutes: once is enough
    running = snakemake(copy, "results", made, *rest)
    while len(written(copy / "results")) < 16 and running.poll() is None:
        time.sleep(0.1)
    kill(running.pid)
    running.communicate()
    after_kill = written(copy / "results")

    hindered = jobs.Piece(cells(made.study)[-1].configs[0])
    place = copy / "results" / Path(hindered.file).with_name(WEIGHTS)
    place.mkdir(parents=True)  # a folder where its weights should go
    running = snakemake(copy, "results", made, *rest)
    output = running.communicate()[0]
    failed = subprocess.CompletedProcess([], running.returncode, output)
    after_failure = written(copy / "results")
    folder = copy / "results" / "workflow" / made.name
    logs = {path.name: path.read_text() for path in folder.glob("*.log")}

    place.rmdir()
    running = snakemake(copy, "results", made, *rest)
    again = running.communicate()[0]
    assert running.returncode == 0, again[-3000:]
    return ByJobs(made, copy, hindered.file, after_kill, after_failure, failed, logs, again)


@needs_snakemake
def test_every_record_is_the_pipelines(by_jobs):
    assert_pipelines(by_jobs.results, by_jobs.made)


@needs_snakemake
def test_killed_in_the_middle_it_goes_on(by_jobs):
    known = jobs.pieces(by_jobs.made.profile, by_jobs.made.study)
    assert 16 <= len(by_jobs.after_kill) < len(known)
    now = written(by_jobs.results)
    assert by_jobs.after_kill.items() <= now.items()
    assert not list(by_jobs.results.rglob("*.damaged"))


@needs_snakemake
def test_a_job_that_fails_leaves_its_log_and_the_others_go_on(by_jobs):
    assert by_jobs.failed.returncode == 1
    folder = str(Path(by_jobs.hindered).parent)
    known = jobs.pieces(by_jobs.made.profile, by_jobs.made.study)
    made = {str(Path(path).relative_to(by_jobs.results)) for path in by_jobs.after_failure}
    assert {file for file in known if file not in made} == {f for f in known if folder in f}
    (log,) = (text for text in by_jobs.logs.values() if "Traceback" in text)
    name = known[by_jobs.hindered].config.name
    assert re.search(rf"error: 1 of \d+ networks failed: {name}: \[Errno 21\] Is a directory", log)
    assert "IsADirectoryError" in by_jobs.failed.stdout  # which shows the log


@needs_snakemake
def test_a_second_call_does_only_what_is_missing(by_jobs):
    begun = re.findall(r"^(?:local)?rule (\w+):", by_jobs.again, re.MULTILINE)
    assert {*begun} <= {"cell", "book", "all"} and begun.count("cell") == 1
    assert by_jobs.after_failure.items() <= written(by_jobs.results).items()


@needs_snakemake
def test_a_kill_between_a_record_and_its_mark_leaves_nothing_out(reduced, tmp_path):
    """Snakemake remembers an unfinished job, of which the store has all."""
    copy = checkout_with(reduced, tmp_path / "copy")
    shutil.copytree(reduced.results, copy / "results")
    lost = jobs.Piece(experiment.grid(reduced.profile)[0].config).file
    (copy / "results" / lost).unlink()
    lingers = tmp_path / "python"
    lingers.write_text(f'#!/bin/sh\n{sys.executable} "$@" && [ "$2" = plan ] || sleep 600\n')
    lingers.chmod(0o755)
    running = snakemake(copy, "results", reduced, python=lingers)
    while not (copy / "results" / lost).exists() and running.poll() is None:
        time.sleep(0.1)
    kill(running.pid)
    running.communicate()
    output = snakemake(copy, "results", reduced, "--dry-run").communicate()[0]
    assert "7 jobs, 1 of them not done yet" in output
    assert re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE) == ["book", "all"]


@needs_snakemake
def test_a_notebook_that_fails_is_left_with_its_traceback(reduced, tmp_path):
    copy = checkout_with(reduced, tmp_path / "copy")
    shutil.copytree(reduced.results, copy / "results")
    first = copy / "notebooks" / f"{pipeline.TRAINING[0]}.ipynb"
    notebook = nbformat.read(first, 4)
    notebook.cells[-1] = nbformat.v4.new_code_cell("raise RuntimeError('on purpose')")
    nbformat.write(notebook, first)
    running = snakemake(copy, "results", reduced)
    output = running.communicate()[0]
    assert running.returncode == 1 and "7 jobs, 1 of them not done yet" in output
    assert "RuntimeError: on purpose" in (copy / "results/workflow/reduced/book.log").read_text()
    executed = nbformat.read(copy / "book" / "_executed" / first.name, 4)
    assert executed.cells[-1].outputs[0].evalue == "on purpose"


@needs_snakemake
def test_the_graph_of_jobs_is_the_engines(tmp_path):
    """What the book draws of the plan is what Snakemake says of its Snakefile."""
    given = {"python": sys.executable, "profile": "smoke", "results_dir": tmp_path}
    command = [SNAKEMAKE, "--profile", "workflow/profiles/local", "--dag", "dot", "--config"]
    command += [f"{key}={value}" for key, value in given.items()]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    named = dict(re.findall(r'^\s*(\d+)\[label = ".*?job: ([\w-]+)"', done.stdout, re.MULTILINE))
    arrows = re.findall(r"^\s*(\d+) -> (\d+)$", done.stdout, re.MULTILINE)
    drawn = {(named[a], named[b]) for a, b in arrows if a in named and b in named}
    planned = cluster.smoke()
    assert {*named.values()} == {*planned}
    assert drawn == {(other, name) for name, job in planned.items() for other in job.after}


@needs_snakemake
@pytest.mark.parametrize("place", ["local", "slurm", "kubernetes"])
def test_every_profile_is_one_that_snakemake_takes(tmp_path, place):
    command = [SNAKEMAKE, "--profile", f"workflow/profiles/{place}", "--dry-run", "--config"]
    command += [f"python={sys.executable}", "profile=smoke", "checkout=.", "data_dir="]
    command += [f"results_dir={tmp_path}", "device=cuda"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gpu=1" in done.stdout + done.stderr


@needs_snakemake
@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.lacking()), reason=f"no Slurm: {slurm.lacking()}")
def test_slurm_makes_the_same_records(reduced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm", numbered=False)
    copy = checkout_with(reduced, tmp_path_factory.mktemp("on_slurm") / "copy")
    quick = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1")
    quick += ("--seconds-between-status-checks", "1", "--latency-wait", "5")
    with slurm.slurm(folder) as environment:
        where = {"place": "slurm", "environment": environment}
        size = {"device": "cpu", "workers": 1}
        omitted = ("--omit-from", "book")
        running = snakemake(copy, "results", reduced, *quick, *omitted, **where, **size)
        output = running.communicate()[0]
    assert running.returncode == 0, output[-3000:]
    assert len(re.findall(r"has been submitted with SLURM jobid \d+", output)) == 7
    assert_pipelines(copy / "results", reduced)
