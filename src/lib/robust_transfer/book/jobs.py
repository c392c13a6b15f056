"""The pipeline's work as jobs for an engine that has many machines; see ``workflow/Snakefile``.

A job is a list of files that it is to make in the record store. It may begin when the jobs are done
that make the files which these need. What a job does is what the pipeline does, by the same runner.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from robust_transfer import paths
from robust_transfer.book import costs
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.evaluation.measurement import MeasurementConfig
from robust_transfer.myakala2022.experiment import Study, cells, read_study
from robust_transfer.records.store import RECORD, Store, folder_name
from robust_transfer.runner import Runner
from robust_transfer.training.loop import TrainingConfig

BOOK = "book"
"""The job that executes the notebooks and builds the book from what all others have made."""
BOOK_MINUTES = 30
"""What notebooks and book take at most; five minutes on two cores, where nothing is left to do."""
SLACK, START_MINUTES = 2, 10
"""A job may take so many times longer than records say, and so long for its start."""
PROCESS_MIB = 4096
"""Memory of a process; the most is that of a DenseNet-121 which makes adversarial images."""


@dataclass(frozen=True)
class Piece:
    """A file of the store: the record of a network, or what was measured on one.

    Attributes:
        config: the network.
        how: what is measured; None for the training itself.
    """

    config: TrainingConfig
    how: MeasurementConfig | None = None

    @property
    def file(self) -> str:
        """Its path in the store."""
        return f"{folder_name(self.config)}/{self.how.file_name if self.how else RECORD}"

    @property
    def needs(self) -> list[str]:
        """The files of the store without which it cannot be made."""
        before = self.how.networks(self.config).values() if self.how else [self.config.source]
        return [Piece(config).file for config in before if config is not None]

    def is_in(self, store: Store) -> bool:
        """Whether it is made."""
        return (self.how.find if self.how else Store.find)(store, self.config) is not None


Unit = tuple[Piece, ...]
"""What one job makes in any case, a network, what is measured on it, or a cell of a study."""


@dataclass(frozen=True)
class Job:
    """What one machine is to do without a break.

    Attributes:
        makes: files of the store.
        after: jobs that make what these files need.
        workers: networks side by side, a core each.
        minutes: after which it may be stopped.
        mebibytes: of memory.
        gpu: how many of them.
    """

    makes: list[str]
    after: list[str]
    workers: int
    minutes: int
    mebibytes: int
    gpu: int


def experiments(file: Path) -> tuple[Profile, Study | None]:
    """The profile in a file, and the study of the same name, if there is one."""
    own = paths.STUDIES / f"{Path(file).stem}.yaml"
    return experiment.read_profile(file), read_study(own) if own.exists() else None


def units(profile: Profile, study: Study | None) -> dict[str, list[Unit]]:
    """All that the pipeline trains and measures, as units by what kind of job makes them.

    Kinds are in the order in which they can be done, but for what their pieces need.
    """
    grid = experiment.grid(profile) + experiment.again(profile)
    table = cells(study) if study else []
    fine_tuned = [config for cell in table for config in cell.configs]
    sources = dict.fromkeys(config.source for config in fine_tuned if config.source)
    networks = [*dict.fromkeys(network.config for network in grid), *sources]
    transfers = sorted((c for c in networks if c.source), key=lambda c: networks.index(c.source))
    asked = ((n.config, experiment.measurements(profile, n).values()) for n in grid)
    return {
        "train": [(Piece(config),) for config in networks if config.source is None],
        "transfer": [(Piece(config),) for config in transfers],
        "evaluate": [tuple(Piece(config, how) for how in hows) for config, hows in asked if hows],
        "cell": [
            (
                *(Piece(config, made) for config, how in cell.wishes for made in (None, how)),
                *(Piece(config, how) for config, how in cell.strong_wishes),
            )
            for cell in table
        ],
    }


def plan(
    profile: Profile, study: Study | None, device: costs.Device, workers: int, least: float
) -> dict[str, Job]:
    """The jobs of a profile and of a study, by name, in an order in which they can be done.

    Args:
        profile: paper A's experiment.
        study: paper B's, or None.
        device: what a job computes on.
        workers: networks that a job works on side by side.
        least: minutes that a job takes at least, if there is so much to do: what costs less than
            its start is done together with its like.
    """
    jobs, made_by = {}, {}
    for kind, of_kind in units(profile, study).items():
        for group in gather(of_kind, device, workers, 60 * least):
            pieces = [piece for unit in group for piece in unit]
            makes = [piece.file for piece in pieces]
            digest = hashlib.sha256(" ".join(makes).encode()).hexdigest()[:8]
            name = f"{kind}-{pieces[0].config.name}-{digest}"
            made_by |= dict.fromkeys(makes, name)
            needed = dict.fromkeys(made_by[file] for piece in pieces for file in piece.needs)
            jobs[name] = Job(
                makes=makes,
                after=[other for other in needed if other != name],
                workers=min(workers, len({piece.config for piece in pieces})),
                minutes=ceil(START_MINUTES + SLACK * cost(group, device, workers) / 60),
                mebibytes=PROCESS_MIB * (1 + workers),
                gpu=int(device == "cuda"),
            )
    return jobs | {BOOK: Job([], [*jobs], 1, BOOK_MINUTES, 2 * PROCESS_MIB, 0)}


def gather(
    of_kind: Sequence[Unit], device: costs.Device, workers: int, least: float
) -> list[list[Unit]]:
    """Groups of neighbours that keep all workers busy, and for so many seconds at least.

    What is left over joins the last of them, if it would be done sooner.
    """
    groups = [[]]
    for unit in of_kind:
        groups[-1].append(unit)
        networks = {piece.config for unit in groups[-1] for piece in unit}
        if len(networks) >= workers and cost(groups[-1], device, workers) >= least:
            groups.append([])
    *full, rest = groups
    if full and cost(rest, device, workers) < least:
        full[-1] += rest
    elif rest:
        full.append(rest)
    return full


def cost(group: Sequence[Unit], device: costs.Device, workers: int) -> float:
    """Seconds that units take with so many networks side by side."""
    of_network = defaultdict(float)
    for piece in (piece for unit in group for piece in unit):
        of_network[piece.config] += costs.seconds(piece.config, piece.how, device)
    return max([sum(of_network.values()) / workers, *of_network.values()])


def pieces(profile: Profile, study: Study | None) -> dict[str, Piece]:
    """All files that the pipeline makes in the store, by their paths in it."""
    of_kinds = units(profile, study).values()
    return {piece.file: piece for of in of_kinds for unit in of for piece in unit}


def missing(jobs: dict[str, Job], known: dict[str, Piece], store: Store) -> list[str]:
    """The jobs of which the store lacks something; the book's, where it lacks anything."""
    found = {file: piece.is_in(store) for file, piece in known.items()}
    lacking = [name for name, job in jobs.items() if not all(found[file] for file in job.makes)]
    return [*lacking, BOOK] if lacking else []


def work(made: Sequence[Piece], runner: Runner) -> None:
    """Make what is missing of some files of the store.

    Raises:
        RuntimeError: some networks failed; the others were trained, and measured.
    """
    problems = []
    try:
        runner.train([piece.config for piece in made if piece.how is None])
    except RuntimeError as error:
        problems.append(str(error))
    wanted = [(piece.config, piece.how) for piece in made if piece.how is not None]
    try:
        runner.measure([wish for wish in wanted if runner.store.find(wish[0]) or not problems])
    except RuntimeError as error:
        problems.append(str(error))
    if problems:
        raise RuntimeError("; ".join(problems))
