"""Run a profile on a machine that is at hand for minutes, and file at home what it brings back.

There, from the root of the repository, as often as it takes; a call goes on where the last ended:

    python -m scripts.away run --profile fast --seconds 540 --data-dir DIR --packs PACKS

Here, with the packs that came back:

    python -m scripts.away file --profile fast --data-dir DIR --packs PACKS

A pack is a tar of records (configuration, history, weights, outcomes) and of checkpoints of what is
not finished. On another machine the packs of before go along, and nothing is trained twice.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from robust_transfer import evaluation, experiments, paths, pipeline
from robust_transfer.evaluation import Evaluation, EvaluationConfig
from robust_transfer.experiments import Network, Profile
from robust_transfer.runner import Runner

PACK_BYTES, PACKS = 16 << 20, 8
"""What comes back: so many files of at most so many bytes."""
LEFT_OUT = (".lock", "examples-*")
"""Files that are made anew in seconds."""
SAMPLE = 200
"""Test images on which a network is attacked again at home."""
HALF = 0.5
"""Every network is evaluated at the profile's epsilon, and at this share of it."""


def evaluations(profile: Profile) -> list[EvaluationConfig]:
    """At the profile's epsilon and, for a second point of the curve, at half of it."""
    halved = profile.model_copy(update={"epsilon": HALF * profile.epsilon})
    return [experiments.evaluation(profile), experiments.evaluation(halved)]


def work(profile: Profile, networks: list[str], runner: Runner) -> None:
    """Train and evaluate what is missing, further seeds last.

    Killed at any moment it loses an epoch at most.
    """
    chosen = select(profile, networks)
    for further in (False, True):
        part = [network for network in chosen if network.further == further]
        runner.train([network.config for network in part])
        targets = experiments.rows(part)
        for how in evaluations(profile) if targets else ():
            runner.train([how.surrogate])
            runner.evaluate([network.config for network in targets], how)
        if harder := experiments.to_attack_harder(targets):
            runner.evaluate([network.config for network in harder], experiments.stronger(profile))


def select(profile: Profile, networks: list[str]) -> list[Network]:
    """The networks of these ids, in every seed; all of them for an empty list."""
    return experiments.select(experiments.grid(profile) + experiments.again(profile), networks)


def pack(results: Path, packs: Path) -> list[Path]:
    """Put a results folder into packs, finished records first.

    Returns:
        The files that no longer fitted.
    """
    packs.mkdir(parents=True, exist_ok=True)
    for old in packs.glob("pack-*.tar"):
        old.unlink()
    files = [path for path in sorted(results.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(path.match(pattern) for pattern in LEFT_OUT)]
    whole = {path.parent for path in files if path.name == "record.json"}
    files.sort(key=lambda path: (path.parent not in whole, path))
    filled: list[list[Path]] = [[] for _ in range(PACKS)]
    rooms, left = [PACK_BYTES - tarfile.RECORDSIZE] * PACKS, []
    for path in files:
        size = path.stat().st_size + 3 * tarfile.BLOCKSIZE  # headers, and its last block filled up
        fits = [index for index, room in enumerate(rooms) if size <= room]
        if fits:
            rooms[fits[0]] -= size
            filled[fits[0]].append(path)
        else:
            left.append(path)
    for index, chosen in enumerate(filled):
        if chosen:
            with tarfile.open(packs / f"pack-{index}.tar", "w") as tar:
                for path in chosen:
                    tar.add(path, path.relative_to(results))
    return left


def unpack(packs: Path, results: Path) -> None:
    """Take packs apart; files that are there stay, for they are as new or newer.

    Raises:
        tarfile.TarError: a pack is damaged, or would write outside the folder.
    """
    for path in sorted(packs.glob("pack-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not (results / member.name).exists():
                    tar.extract(member, results, filter="data")


def check(network: Network, how: EvaluationConfig, found: Evaluation, runner: Runner) -> str:
    """Attack a network again, on a few images; say how many outcomes differ from the record's.

    Another processor adds in another order, so a few outcomes on the edge may differ; more than one
    in fifty is an error.

    Raises:
        ValueError: a column differs in more than that.
    """
    images = evaluation.test_images(how, runner.data_dir).first(SAMPLE)
    model = runner.store.model(network.config)
    name = f"{network.id}, seed {network.config.seed}"
    again = evaluation.outcomes(model, images, how.attacks, {})
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

    Returns:
        What is not finished yet.

    Raises:
        ValueError: outcomes differ from those found here.
    """
    unpack(packs, Path(runner.results_dir))
    targets = experiments.rows(select(profile, sample))
    for how in evaluations(profile):
        for network in targets:
            found = evaluation.find(runner.store, network.config, how)
            if found is not None:
                print(check(network, how, found, runner), flush=True)
    return pipeline.publish(profile, runner.store)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    profile = experiments.read_profile(experiments.profile_path(options.profile))
    results = Path(paths.resolve(options.results_dir))
    runner = Runner(results_dir=str(results), data_dir=options.data_dir, workers=options.workers)
    packs = Path(options.packs)
    if options.command == "work":
        work(profile, options.networks, runner)
    elif options.command == "run":
        unpack(packs, results)
        given = sys.argv[1:] if arguments is None else arguments
        command = [sys.executable, "-m", "scripts.away", "work", *given[1:]]
        child = subprocess.Popen(command, cwd=paths.ROOT)
        try:
            code = child.wait(options.seconds)
        except subprocess.TimeoutExpired:
            child.kill()  # its workers end with it
            child.wait()
            code, text = 0, "time is up"
        else:
            text = "everything is done" if code == 0 else f"stopped with exit code {code}"
        left = pack(results, packs)
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
    parser.add_argument("--seconds", default=540, type=int, help="when to stop and pack")
    parser.add_argument("--packs", default="packs", help="folder of the packs")
    parser.add_argument("--data-dir", default="", help="folder of the images")
    parser.add_argument("--results-dir", default="results", help="folder of the records")
    parser.add_argument("--workers", default=0, type=int, help="networks side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
