"""What the Snakefile calls, with the library's environment: plan the jobs, and do one of them.

    python -m workflow plan --profile paper --data-dir DIR --device cuda --workers 3 --least 10
    python -m workflow job train-pgd-0123abcd --profile paper

The plan, a mark for every job that is done, and the log of every job are in ``workflow/PROFILE`` of
the results. Marks are made anew with every plan, of what the record store has: whatever becomes
of them, of a killed engine or of a deleted folder, no network is trained twice.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from robust_transfer import paths
from robust_transfer.book import jobs
from robust_transfer.book.jobs import Job
from robust_transfer.config import Parser, say
from robust_transfer.data.registry import load
from robust_transfer.davchev2019.experiment import Profile, profile_path
from robust_transfer.files import write_atomically
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.records.store import Store
from robust_transfer.runner import Runner
from robust_transfer.training.sharing import process_service

PLAN = "plan.json"


def folder(options: argparse.Namespace) -> Path:
    """Where plan, marks and logs of a profile are."""
    return Path(paths.resolve(options.results_dir), "workflow", Path(options.profile).stem)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code, 2 for a refused option and 1 for what failed."""
    try:
        options = _parser().parse_args(arguments)
        action = {"plan": plan, "job": work}[options.command]
        if (options.command == "job") != bool(options.name):
            raise ValueError("plan or job NAME: a name is given to a job, and only to one")
    except ValueError as error:
        return say(error, 2)
    try:
        return action(options)
    except (ValueError, OSError, RuntimeError) as error:
        return say(error, 1)


def plan(options: argparse.Namespace) -> int:
    """Write the plan of a profile's jobs, and mark those that are done."""
    profile, study = jobs.experiments(file := str(profile_path(options.profile)))
    _check_images(profile, study, options.data_dir)
    size = options.device, options.workers, options.least
    planned = jobs.plan(profile, study, *size)
    store = Store(paths.resolve(options.results_dir))
    lacking = jobs.missing(planned, jobs.pieces(profile, study), store)
    for name in planned:
        mark = folder(options) / f"{name}.done"
        if name in lacking:
            mark.unlink(missing_ok=True)
        elif name != jobs.BOOK:  # which is done once it was built
            write_atomically(mark, b"")
    said = {"profile": file, "data_dir": options.data_dir, "device": options.device}
    said["jobs"] = {name: asdict(job) for name, job in planned.items()}
    write_atomically(folder(options) / PLAN, json.dumps(said, indent=1).encode())
    left = [name for name in planned if not (folder(options) / f"{name}.done").exists()]
    print(f"{len(planned)} jobs, {len(left)} of them not done yet", flush=True)
    return 0


def work(options: argparse.Namespace) -> int:
    """Do one job of the plan."""
    if not (file := folder(options) / PLAN).exists():
        said = f"results_dir = {options.results_dir!r}: nothing is planned there"
        raise ValueError(
            f"{said} for {options.profile}; allowed is where python -m workflow plan was"
        )
    said = json.loads(file.read_text(encoding="utf-8"))
    if options.name not in said["jobs"]:
        raise ValueError(f"job = {options.name!r}: allowed are {', '.join(said['jobs'])}")
    job = Job(**said["jobs"][options.name])
    where = {
        "results_dir": paths.resolve(options.results_dir),
        "data_dir": paths.resolve(said["data_dir"]),
    }
    if options.name == jobs.BOOK:
        from robust_transfer.__main__ import main as pipeline  # its packages are only needed here

        words = [f"--{name.replace('_', '-')}={path}" for name, path in where.items()]
        return pipeline(["run", f"--profile={said['profile']}", *words])
    known = jobs.pieces(*jobs.experiments(said["profile"]))
    # A core each, as in the pipeline, which has more networks than cores: so bits are the same.
    runner = Runner(**where, device=said["device"], workers=job.workers, threads=1)
    with process_service(job.workers if job.gpu else 1):
        jobs.work([known[file] for file in job.makes], runner)
    return 0


def _check_images(profile: Profile, study: Study | None, data_dir: str) -> None:
    """Raise ValueError or OSError, now and not in a job, where a data set is not at hand."""
    known = jobs.pieces(profile, study).values()
    for dataset, side in {(piece.config.dataset, piece.config.image_size) for piece in known}:
        load(dataset, "test", 1, paths.resolve(data_dir), side)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="workflow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", choices=("plan", "job"))
    add("name", nargs="?", default="", help="of a job")
    add("--profile", default="smoke", help="name or file of a profile")
    add("--data-dir", default="", help="folder of the images")
    add("--results-dir", default="results", help="folder of the records")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what jobs compute on")
    add("--workers", type=_positive, default=1, help="networks side by side in a job")
    add("--least", type=_minutes, default=0, help="minutes of a job, where there is so much to do")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed are whole numbers from 1")
    return int(text)


def _minutes(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: allowed are minutes from 0")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
