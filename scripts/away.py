"""Run a profile on a machine that is at hand for minutes, and file at home what it brings back.

There, from the root of the repository, as often as it takes; a call goes on where the last ended:

    python -m scripts.away run --profile fast --seconds 540 --data-dir DIR --packs PACKS

Here, with the packs that came back:

    python -m scripts.away file --profile fast --data-dir DIR --packs PACKS

A pack is a tar of records (configuration, history, weights, outcomes) and of checkpoints of what is
not finished. On another machine the packs of before go along, and nothing is trained twice; what
was filed at home is in ``book/results``, and goes along with the repository. On the same machine
``--home`` leaves out what came home before, where all together is too much. A borrowed machine
needs neither the notebooks' packages nor git (what else ``requirements.txt`` has and it lacks, for
instance pydantic, travels as wheels); ``COMMIT=…`` in its environment says what is run. Where
``nvidia-cuda-mps-control -d`` can be started, and ended after each call, the kernels of ``--workers
3`` share the GPU; otherwise they take turns, and only hide what a network does on the CPU.
"""

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from robust_transfer import paths
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation import accuracies
from robust_transfer.evaluation.accuracies import Evaluation, EvaluationConfig
from robust_transfer.files import write_atomically
from robust_transfer.records.store import CHECKPOINT
from robust_transfer.runner import Runner
from robust_transfer.training.checkpoints import epochs_done

PACK_BYTES, PACKS = 16 << 20, 4
"""What comes back: so many files of at most so many bytes."""
LEFT_OUT = (".*", "*.damaged", "examples-*")
"""Locks, files half written and damaged ones, and what is made anew in seconds."""
SAMPLE = 200
"""Test images on which a network is attacked again at home."""
HALF = 0.5
"""Every network is evaluated at the profile's epsilon, and at this share of it."""


def evaluations(profile: Profile) -> list[EvaluationConfig]:
    """At the profile's epsilon and, for a second point of the curve, at half of it."""
    halved = profile.model_copy(update={"epsilon": HALF * profile.epsilon})
    return [experiment.evaluation(profile), experiment.evaluation(halved)]


def work(profile: Profile, networks: list[str], runner: Runner) -> None:
    """Train and evaluate what is missing, the rows behind the headline first, further seeds last.

    Killed at any moment it loses an epoch at most.

    Raises:
        RuntimeError: some networks failed; the others were trained and evaluated.
    """
    chosen, problems = select(profile, networks), []

    def attempt(action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except (RuntimeError, FileNotFoundError) as error:
            problems.append(str(error))

    own = [network for network in chosen if not network.further]
    first = [network for network in own if network.id in experiment.HEADLINE]
    for part in (first, own, [network for network in chosen if network.further]):
        attempt(runner.train, [network.config for network in part])
        targets = [n for n in experiment.rows(part) if runner.store.find(n.config)]
        for how in evaluations(profile) if targets else ():
            attempt(runner.train, [how.surrogate])
            attempt(runner.evaluate, [network.config for network in targets], how)
        if harder := experiment.to_attack_harder(targets):
            how = experiment.stronger(profile)
            attempt(runner.evaluate, [network.config for network in harder], how)
    if problems:
        raise RuntimeError("; ".join(problems))


def select(profile: Profile, networks: list[str]) -> list[Network]:
    """The networks of these ids, in every seed; all of them for an empty list."""
    return experiment.select(experiment.grid(profile) + experiment.again(profile), networks)


def pack(results: Path, packs: Path, home: Collection[str] = ()) -> list[Path]:
    """Put a results folder into packs, finished networks first, each whole in one pack.

    Args:
        results: the folder.
        packs: where packs are put, in the place of those of before.
        home: files of finished networks, as ``folder/name``, that came home before.

    Returns:
        The folders that no longer fitted.
    """
    packs.mkdir(parents=True, exist_ok=True)
    for old in packs.glob("pack-*.tar"):
        old.unlink()
    folders: dict[Path, list[Path]] = {}
    for path in sorted(results.glob("*/*")):
        known = f"{path.parent.name}/{path.name}" in home and path.name != CHECKPOINT
        if not known and not any(path.match(pattern) for pattern in LEFT_OUT):
            folders.setdefault(path.parent, []).append(path)
    filled: list[list[Path]] = [[] for _ in range(PACKS)]
    rooms, left = [PACK_BYTES - tarfile.RECORDSIZE] * PACKS, []
    order = sorted(folders, key=lambda folder: (not (folder / "record.json").exists(), folder))
    for folder in order:
        # a file's two headers, the block of the first, and its own last block filled up
        size = sum(path.stat().st_size + 4 * tarfile.BLOCKSIZE for path in folders[folder])
        fits = [index for index, room in enumerate(rooms) if size <= room]
        if fits:
            rooms[fits[0]] -= size
            filled[fits[0]] += folders[folder]
        else:
            left.append(folder)
    for index, chosen in enumerate(filled):
        if chosen:
            with tarfile.open(packs / f"pack-{index}.tar", "w") as tar:
                for path in chosen:
                    tar.add(path, path.relative_to(results))
    return left


def unpack(packs: Path, results: Path) -> None:
    """Take packs apart; files that are there stay, but for a checkpoint that has fewer epochs.

    Raises:
        tarfile.TarError: a pack is damaged, or would write outside the folder.
    """
    for path in sorted(packs.glob("pack-*.tar")):
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory() as folder:
            tar.extractall(folder, filter="data")
            for new in sorted(Path(folder).glob("*/*")):
                there = results / new.relative_to(folder)
                further = new.name == CHECKPOINT and epochs_done(new) > epochs_done(there)
                if further or not there.exists():
                    write_atomically(there, new.read_bytes())


def check(network: Network, how: EvaluationConfig, found: Evaluation, runner: Runner) -> str:
    """Attack a network again, on a few images; say how many outcomes differ from the record's.

    Another processor adds in another order, so a few outcomes on the edge may differ; more than one
    in fifty is an error.

    Raises:
        ValueError: a column differs in more than that; it names the network.
    """
    images = accuracies.test_images(how, runner.data_dir).first(SAMPLE)
    model = runner.store.model(network.config)
    name = f"{network.id}, seed {network.config.seed}"
    again = accuracies.outcomes(model, images, how.attacks, {})
    worst = 0
    for column, outcome in again.items():
        differ = int(np.sum(outcome != found.outcomes[column][: len(images)]))
        worst = max(worst, differ)
        if differ > max(1, len(images) // 50):
            counted = f"{differ} of {len(images)} outcomes in {column}"
            raise ValueError(f"{name}: {counted} differ from the record")
    return f"{name}: at most {worst} of {len(images)} outcomes differ"


def file(profile: Profile, packs: Path, runner: Runner, sample: list[str]) -> list[str]:
    """Unpack, verify checksums and a sample of the outcomes, and publish what is whole.

    What was published without weights has been verified before.

    Returns:
        What is not finished yet.

    Raises:
        ValueError: outcomes differ from those found here; all of these are named.
    """
    from robust_transfer.book import pipeline  # here: its packages are not on a borrowed machine

    unpack(packs, Path(runner.results_dir))
    targets, problems = experiment.rows(select(profile, sample)), []
    for how in evaluations(profile):
        for network in targets:
            found = how.find(runner.store, network.config)
            if found is not None and runner.store.find(network.config, weights=True) is not None:
                try:
                    print(check(network, how, found, runner), flush=True)
                except ValueError as error:
                    problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return pipeline.publish(profile, runner.store)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    profile = experiment.read_profile(experiment.profile_path(options.profile))
    results = Path(paths.resolve(options.results_dir))
    runner = Runner(
        results_dir=str(results),
        published_dir=str(paths.PUBLISHED / profile.folder),
        data_dir=options.data_dir,
        workers=options.workers,
    )
    packs = Path(options.packs)
    if options.command == "work":
        work(profile, options.networks, runner)
    elif options.command == "run":
        home = Path(options.home).read_text().split() if options.home else ()
        unpack(packs, results)
        given = list(sys.argv[1:] if arguments is None else arguments)
        given[given.index("run")] = "work"
        command = [sys.executable, "-m", "scripts.away", *given]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the child
        child = subprocess.Popen(command, cwd=paths.ROOT, start_new_session=True)
        try:
            code = child.wait(options.seconds)
            text = "everything is done" if code == 0 else f"stopped with exit code {code}"
        except subprocess.TimeoutExpired:
            code, text = 0, "time is up"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its workers too, so that nothing is written
            child.wait()
        left = pack(results, packs, home)
        done = len(list(results.glob("*/record.json")))
        print(f"{text}: {done} networks are finished")
        for path in left:
            print(f"does not fit: {path.relative_to(results)}")
        return code
    else:
        missing = file(profile, packs, runner, options.networks)
        print(f"not finished yet: {', '.join(missing)}" if missing else "everything is published")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts.away", description=__doc__)
    parser.add_argument("command", choices=("run", "work", "file"))
    parser.add_argument("--profile", default="fast", help="name or file of a profile")
    parser.add_argument("--networks", default=[], nargs="*", help="ids; all without it")
    parser.add_argument("--seconds", default=540, type=int, help="from now to stopping and packing")
    parser.add_argument("--packs", default="packs", help="folder of the packs")
    parser.add_argument("--home", default="", help="file that lists what came home: ls -d */*")
    parser.add_argument("--data-dir", default="", help="folder of the images")
    parser.add_argument("--results-dir", default="results", help="folder of the records")
    parser.add_argument("--workers", default=0, type=int, help="networks side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
