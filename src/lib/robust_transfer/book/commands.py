"""What the command line does: run the pipeline, publish records, verify a cell."""

import argparse
from pathlib import Path

import papermill

from robust_transfer import paths
from robust_transfer.book import pipeline
from robust_transfer.config import say
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.verification import Verification, verify
from robust_transfer.myakala2022.experiment import published_study, read_study
from robust_transfer.records.store import Store


def do(options: argparse.Namespace) -> int:
    """Do what options ask for; returns the exit code, which is 1 with one line for what failed."""
    try:
        if options.command == "verify":
            print(_verify(options))
            return 0
        as_published = options.published and not options.profile  # nothing is trained
        chosen = experiment.published_profile() if as_published else options.profile or "smoke"
        profile = experiment.profile_path(chosen)
        if options.command == "publish":
            _publish(profile, paths.resolve(options.results_dir))
            return 0
        named = ("results_dir", "data_dir", "device", "workers")
        where = {n: asked for n in named if (asked := getattr(options, n)) is not None}
        where["published_dir"] = "book/results" if options.published else ""
        study = published_study() if as_published else _study_of(profile) or published_study()
        print(f"the book: {pipeline.run(profile, study, where)}")
    except papermill.PapermillExecutionError as error:
        return say(f"{error.ename}: {error.evalue}", 1)
    except (ValueError, OSError, RuntimeError) as error:
        return say(error, 1)
    return 0


def _verify(options: argparse.Namespace) -> Verification:
    """Measure a cell again."""
    name, _, column = options.cell.partition(" ")
    data_dir, device = paths.resolve(options.data_dir), options.device or "cpu"
    return verify(name, column, profile=options.profile or "", data_dir=data_dir, device=device)


def _study_of(profile: Path) -> Path | None:
    """The study of the same name as a profile; None if it has none, and is paper A's alone."""
    own = paths.STUDIES / f"{profile.stem}.yaml"
    return own if own.exists() else None


def _publish(profile: Path, results_dir: str) -> None:
    """Publish what is finished of a profile, and of the study of the same name."""
    jobs = [(pipeline.publish, experiment.read_profile(profile))]
    if own := _study_of(profile):
        jobs.append((pipeline.publish_study, read_study(own)))
    if not Path(results_dir).is_dir():
        raise ValueError(f"results_dir = {results_dir!r}: no such folder")
    for publish, what in jobs:
        target = paths.PUBLISHED / what.folder
        missing = publish(what, Store(results_dir, target))
        print(f"published in {target}")
        if missing:
            print(f"not finished yet: {', '.join(missing)}")
