"""Run a profile on a machine that is at hand for minutes, and file at home what it brings back.

There, from the root of the repository, as often as it takes; a call goes on where the last ended:

    python -m scripts.away run --profile fast --seconds 540 --data-dir DIR --packs PACKS

Here, with the packs that came back:

    python -m scripts.away file --profile fast --data-dir DIR --packs PACKS

A study goes the same way, with ``--study imagenet`` in place of the profile. Its fine-tuned
networks are published without weights: those come along only where something is left to measure.

A pack is a tar of records (configuration, history, weights, outcomes) and of checkpoints of what is
not finished. On another machine the packs of before go along, and nothing is trained twice; what
was filed at home is in ``book/results``, and goes along with the repository. On the same machine
``--home`` leaves out what came home before, where all together is too much. Until they are packed,
results are in shared memory, where there is enough: no checkpoint waits for a disk.

A borrowed machine needs neither the notebooks' packages nor git; ``COMMIT=…`` in its environment
says what is run, and ``PYTHONPATH`` must name ``src/lib``. What else ``requirements.txt`` has and
it lacks travels as wheels for its Python: pydantic, for instance, with pydantic_core,
typing-inspection, annotated-types and typing-extensions, by ``pip download --only-binary :all:``
here and ``pip install --no-index --find-links FOLDER pydantic`` there.

With ``--workers 2`` or more they share a GPU by NVIDIA's process service, see ``training.sharing``.
A refused option ends with one line and exit code 2, what fails later with exit code 1.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch

from robust_transfer import paths
from robust_transfer.config import Parser, one_of, say
from robust_transfer.data.registry import load
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation import layers
from robust_transfer.files import write_atomically
from robust_transfer.myakala2022.experiment import NONE, Cell, Study, cells, read_study
from robust_transfer.records.store import CHECKPOINT, HISTORY, RECORD, WEIGHTS, Store, folder_name
from robust_transfer.runner import Runner
from robust_transfer.training.checkpoints import history
from robust_transfer.training.sharing import process_service

PACK_BYTES, PACKS = 16 << 20, 4
"""What comes back: so many files of at most so many bytes."""
PACKED = re.compile(
    r"[a-z0-9_-]+/"
    rf"({re.escape(RECORD)}|{re.escape(HISTORY)}|{re.escape(WEIGHTS)}|{re.escape(CHECKPOINT)}"
    rf"|{re.escape(layers.NAME)}|(evaluation|strong|budgets)-[0-9a-f]{{16}}\.json)"
)
"""Files of networks. Locks, damaged files and what is made anew in seconds are left out."""
MEMORY, ROOM = Path("/dev/shm"), 1 << 30
"""Where results are until they are packed, if so many bytes are free there."""
POLL_SECONDS = 2
"""Between two looks at the histories."""
SAMPLE = 200
"""Test images on which a network is attacked again at home."""
CHECKED = ("natural", "wb_fgsm", "wb_pgd")
"""Columns in which a network is attacked again, as ``make verify`` does."""


def work_study(study: Study, names: list[str], runner: Runner) -> None:
    """Train and measure what is missing, adversarial trainings last, for they take longest.

    Killed at any moment it loses an epoch at most.

    Raises:
        RuntimeError: some networks failed; the others were trained and measured.
    """
    chosen = sorted(select_cells(study, names), key=_effort)
    sources = {config.source for cell in chosen for config in cell.configs if config.source}
    runner.train(list(sources), weights=True)
    runner.train_and_measure([wish for c in chosen for wish in (*c.wishes, *c.strong_wishes)])
    for config in (c.configs[0] for c in chosen if c.treatment == ("full_finetuning", NONE)):
        layers.get_or_measure(runner.store, config, runner.data_dir, runner.torch_device)


def _effort(cell: Cell) -> int:
    """Which cells come later: what is trained on attacked images, with other techniques last."""
    return len(cell.techniques) if "augmentation" in cell.techniques else 0


def select_cells(study: Study, names: list[str]) -> list[Cell]:
    """The cells of these ids; all of them for an empty list."""
    table = {cell.id: cell for cell in cells(study)}
    return [table[one_of("networks", name, table)] for name in names or table]


def measured(study: Study, store: Store) -> set[str]:
    """Folders of networks of which nothing is left to measure."""
    whole = {}
    for cell in cells(study):
        for config, how in (*cell.wishes, *cell.strong_wishes):
            found = how.find(store, config) is not None
            whole[folder_name(config)] = whole.get(folder_name(config), True) and found
    return {name for name, found in whole.items() if found}


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
        trained = [network for network in part if runner.store.find(network.config)]
        attempt(runner.measure, experiment.wishes(trained, profile))
    if problems:
        raise RuntimeError("; ".join(problems))


def select(profile: Profile, networks: list[str]) -> list[Network]:
    """The networks of these ids, in every seed; all of them for an empty list."""
    return experiment.select(experiment.grid(profile) + experiment.again(profile), networks)


def pack(
    results: Path, packs: Path, home: Collection[str] = (), bare: Collection[str] = ()
) -> list[Path]:
    """Put a results folder into packs, finished networks first, each whole in one pack.

    Args:
        results: the folder.
        packs: where packs are put, in the place of those of before.
        home: files of finished networks, as ``folder/name``, that came home before.
        bare: folders whose weights stay.

    Returns:
        The folders that no longer fitted.
    """
    packs.mkdir(parents=True, exist_ok=True)
    for old in packs.glob("pack-*.tar"):
        old.unlink()
    folders: dict[Path, list[Path]] = {}
    for path in sorted(results.glob("*/*")):
        known = f"{path.parent.name}/{path.name}" in home and path.name != CHECKPOINT
        known |= path.parent.name in bare and path.name == WEIGHTS
        if not known and PACKED.fullmatch(path.relative_to(results).as_posix()):
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
        ValueError: a pack is damaged, larger than packs are, or holds what no pack holds.
    """
    for path in sorted(packs.glob("pack-*.tar")):
        with tempfile.TemporaryDirectory() as folder:
            try:
                _extract(path, Path(folder))
            except (tarfile.TarError, OSError) as error:
                raise ValueError(f"{path}: not a readable pack, copy it anew ({error})") from None
            for new in sorted(Path(folder).glob("*/*")):
                there = results / new.relative_to(folder)
                further = new.name == CHECKPOINT and len(history(new)) > len(history(there))
                if further or not there.exists():
                    write_atomically(there, new.read_bytes())


def _extract(pack: Path, folder: Path) -> None:
    """Write the files of networks that a pack holds to a folder."""
    with tarfile.open(pack, "r:") as tar:
        members = tar.getmembers()
        if sum(member.size for member in members) > PACK_BYTES:
            raise ValueError(f"{pack}: unpacks to more than {PACK_BYTES >> 20} MiB")
        for member in members:
            if not member.isfile() or not PACKED.fullmatch(member.name):
                raise ValueError(f"{pack}: {member.name!r} is no file of a network")
            write_atomically(folder / member.name, tar.extractfile(member).read())


def file_study(study: Study, packs: Path, runner: Runner) -> list[str]:
    """Unpack a study, and publish what is whole; see ``pipeline.publish_study``.

    Returns:
        What is not finished yet.
    """
    from robust_transfer.book import pipeline  # whose packages are not on a borrowed machine

    unpack(packs, Path(runner.results_dir))
    return pipeline.publish_study(study, runner.store)


def file(profile: Profile, packs: Path, runner: Runner, sample: list[str]) -> list[str]:
    """Unpack, verify checksums and a sample of the outcomes, and publish what is whole.

    What was published without weights has been verified before. Another processor adds in another
    order, so a few outcomes on the edge may differ; more than one in fifty is an error.

    Returns:
        What is not finished yet.

    Raises:
        RuntimeError: outcomes differ from those found here; all of these are named.
    """
    # here, because their packages are not on a borrowed machine:
    from robust_transfer.book import pipeline
    from robust_transfer.davchev2019 import verification

    unpack(packs, Path(runner.results_dir))
    how, problems, cpu = experiment.evaluation(profile), [], torch.device("cpu")
    for network in experiment.rows(select(profile, sample)):
        here = runner.store.find(network.config, weights=True) is not None
        for column in CHECKED if here and how.find(runner.store, network.config) else ():
            cell = network, column, runner.data_dir, SAMPLE, cpu
            found = verification.measure_again(profile, runner.store, *cell)
            print(f"seed {network.config.seed}, {found}", flush=True)
            if found.differ > max(1, len(found.again) // 50):
                problems.append(str(found))
    if problems:
        raise RuntimeError("; ".join(problems))
    return pipeline.publish(profile, runner.store)


def run(
    options: argparse.Namespace, chosen: Profile | Study, runner: Runner, given: list[str]
) -> int:
    """Do what was ``given`` in a process that is ended after some seconds, and pack the results."""
    end = time.monotonic() + options.seconds
    results, packs = Path(runner.results_dir), Path(options.packs)
    home = Path(options.home).read_text(encoding="utf-8").split() if options.home else ()
    unpack(packs, results)
    told = {folder: len(rows) for folder, rows in histories(results)}
    arguments = ["work" if word == "run" else word for word in given]
    command = [sys.executable, "-m", "scripts.away", *arguments, "--results-dir", str(results)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the child
    with process_service(options.workers):
        child = subprocess.Popen(command, cwd=paths.ROOT, start_new_session=True)
        try:
            code = None
            while code is None and (left := end - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    code = child.wait(min(POLL_SECONDS, left))
                tell(results, told)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its workers too, so that nothing is written
            child.wait()
    bare = measured(chosen, runner.store) if isinstance(chosen, Study) else ()
    left_out = pack(results, packs, home, bare)
    done = len(list(results.glob("*/record.json")))
    text = {None: "time is up", 0: "everything is done"}.get(code, f"stopped with exit code {code}")
    print(f"{text}: {done} networks are finished")
    for path in left_out:
        print(f"does not fit: {path.relative_to(results)}")
    return code or 0


def histories(results: Path) -> Iterator[tuple[str, list[dict]]]:
    """Every network's folder, and the rows of its history so far."""
    for folder in sorted(results.glob("*/")):
        rows = history(folder / CHECKPOINT)
        if not rows and (folder / HISTORY).exists():
            rows = pd.read_csv(folder / HISTORY).to_dict("records")
        yield folder.name, rows


def tell(results: Path, told: dict[str, int]) -> None:
    """Print the rows of all histories that were not told before."""
    for folder, rows in histories(results):
        for row in rows[told.get(folder, 0) :]:
            said = {k: v for k, v in row.items() if pd.notna(v)}  # natural training attacks nothing
            epoch, seconds = said.pop("epoch") + 1, said.pop("seconds")
            words = ", ".join(f"{name} {value:.4g}" for name, value in said.items())
            text = f"{folder}: epoch {epoch}, {seconds:.1f} s, {words}"
            print(f"\r{text:<88}", flush=True)  # over the bar of the process that trains
        told[folder] = max(len(rows), told.get(folder, 0))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code, 2 for a refused option and 1 for what failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(given)
        chosen, runner = _checked(options)
    except (ValueError, OSError) as error:
        return say(error, 2)
    try:
        if options.command == "run":
            return run(options, chosen, runner, given)
        study = isinstance(chosen, Study)
        if options.command == "work":
            (work_study if study else work)(chosen, options.networks, runner)
        else:
            home = Path(options.packs), runner
            left = file_study(chosen, *home) if study else file(chosen, *home, options.networks)
            missing = ", ".join(left)
            print(f"not finished yet: {missing}" if missing else "everything is published")
    except (ValueError, OSError, RuntimeError) as error:
        return say(error, 1)
    return 0


def _checked(options: argparse.Namespace) -> tuple[Profile | Study, Runner]:
    """What the options say; an error, before minutes are spent, if they cannot work."""
    if options.study:
        chosen = read_study(paths.parameter_file("study", paths.STUDIES, options.study))
        select_cells(chosen, options.networks)
        needed = dict.fromkeys(cell.configs[0].dataset for cell in cells(chosen))
    else:
        chosen = experiment.read_profile(experiment.profile_path(options.profile))
        select(chosen, options.networks)
        needed = dict.fromkeys((chosen.source_dataset, chosen.target_dataset))
    for name in ("packs", "home", "data_dir"):
        setattr(options, name, os.path.expanduser(getattr(options, name)))
    if options.home and not Path(options.home).is_file():
        raise ValueError(f"home = {options.home!r}: no such file")
    for name in ("packs", "results_dir", "data_dir"):
        path = Path(given := getattr(options, name))
        if path.exists() and not path.is_dir():
            raise ValueError(f"{name} = {given!r}: a file; allowed is a folder")
        there_already = name == "data_dir" or (name == "packs" and options.command == "file")
        if there_already and not path.exists():
            raise ValueError(f"{name} = {given!r}: no such folder")
    if options.command != "work":  # which a run has checked
        Path(options.packs).mkdir(parents=True, exist_ok=True)
        for dataset in needed:
            load(dataset, "test", 1, options.data_dir)
    away = options.command != "file" and MEMORY.is_dir()
    if not options.results_dir and away and shutil.disk_usage(MEMORY).free >= ROOM:
        results = MEMORY / f"robust_transfer-{os.getuid()}"
    else:
        results = paths.resolve(options.results_dir or "results")
    return chosen, Runner(
        results_dir=str(results),
        published_dir=str(paths.PUBLISHED / chosen.folder),
        data_dir=options.data_dir,
        workers=options.workers,
    )


def _whole(least: int) -> Callable[[str], int]:
    """A whole number from ``least`` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: allowed are whole numbers from {least}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="scripts.away",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", choices=("run", "work", "file"))
    add("--profile", default="fast", help="name or file of a profile")
    add("--study", default="", help="name or file of a study, in place of a profile")
    add("--networks", default=[], nargs="*", help="ids, of cells in a study; all without it")
    add("--seconds", default=540, type=_whole(1), help="from now to stopping and packing")
    add("--packs", default="packs", help="folder of the packs")
    add("--home", default="", help="file that lists what came home: ls -d */*")
    add("--data-dir", default="", help="folder of the images")
    add("--results-dir", default="", help="folder of the records; else in memory, or results")
    add("--workers", default=0, type=_whole(0), help="networks side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
