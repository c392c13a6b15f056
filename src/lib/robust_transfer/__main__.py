"""Command line: run the pipeline, build the published book, publish records, or verify a cell."""

import argparse
import os
import sys
from pathlib import Path

import papermill

from robust_transfer import paths
from robust_transfer.book import pipeline
from robust_transfer.config import Parser, say
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.verification import Verification, verify
from robust_transfer.myakala2022.experiment import published_study, read_study
from robust_transfer.records.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code.

    It is 2 with one line for an option that is refused, and 1 with one for what failed.
    """
    os.environ["PYTHONUTF8"] = "1"  # for the notebooks' kernels and jupyter-book
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # what a terminal cannot show ends no run
    try:
        options = _parser().parse_args(arguments)
    except ValueError as error:
        return say(error, 2)
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


def _parser() -> Parser:
    parser = Parser(prog="robust_transfer", description=__doc__)
    parser.add_argument("command", choices=("run", "publish", "verify"))
    parser.add_argument(
        "--profile", help="name or file; else smoke, or the published book's with --published"
    )
    parser.add_argument("--published", action="store_true", help="start from book/results")
    parser.add_argument("--cell", default="", help="to verify: 'pgd-pgd-all wb_pgd', say")
    parser.add_argument("--data-dir", default="", help="folder of the images")
    parser.add_argument("--results-dir", default="results", help="folder of the records")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, help="networks side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
