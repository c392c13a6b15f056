"""What the page on clusters shows: what each scale costs, and who waits for whom."""

from collections import Counter

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from robust_transfer import paths
from robust_transfer.book import costs, jobs
from robust_transfer.book.jobs import BOOK, Job
from robust_transfer.davchev2019.experiment import SCALES, Profile, profile_path
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.presentation import figures

SEEDS = (1, 2, 3, 4)
"""Further ones for five in all."""
KINDS = dict(zip(("train", "transfer", "evaluate", "cell", BOOK), figures.PALETTE, strict=False))
"""Kinds of jobs, each with its colour."""


def planned_for(place: str) -> dict[str, object]:
    """What jobs are planned for at a place, a folder of ``workflow/profiles``."""
    file = paths.ROOT / "workflow" / "profiles" / place / "plan.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def scales() -> pd.DataFrame:
    """What it takes to run every scale with the study of its name: a row each.

    Returns:
        networks, measurements; jobs, hours and the longest job's minutes on GPUs, then on cores of
        processors; and how much of these hours, in percent, is by records of the like.
    """
    rows = {}
    for name in ("smoke", *reversed(SCALES)):
        profile, study = jobs.experiments(profile_path(name))
        rows[name] = _row(profile, study)
        if study and name == SCALES[0]:
            rows[f"{name}, without its study"] = _row(profile, None)
            five = profile.model_copy(update={"further_seeds": SEEDS})
            rows[f"{name}, five seeds, without its study"] = _row(five, None)
    return pd.DataFrame.from_dict(rows, "index")


def _row(profile: Profile, study: Study | None) -> dict[str, int | float]:
    pieces = jobs.pieces(profile, study).values()
    row = {"networks": sum(piece.how is None for piece in pieces)}
    row["measurements"] = len(pieces) - row["networks"]
    least, on_gpu = (planned_for("slurm")[key] for key in ("least", "workers"))
    for device, workers, words in (("cuda", on_gpu, "GPU"), ("cpu", 1, "core")):
        planned = jobs.plan(profile, study, device, workers, least)
        seconds = {p: costs.seconds(p.config, p.how, device) / workers for p in pieces}
        known = sum(s for p, s in seconds.items() if costs.is_recorded(p.config, p.how, device))
        row[f"{words} jobs"] = len(planned) - 1
        row[f"{words} hours"] = sum(seconds.values()) / 3600
        row[f"by {words} records (%)"] = 100 * known / sum(seconds.values())
    return row


def smoke() -> dict[str, Job]:
    """The jobs of the profile smoke on one machine, the most that a picture has room for."""
    size = (planned_for("local")[key] for key in ("device", "workers", "least"))
    return jobs.plan(*jobs.experiments(profile_path("smoke")), *size)


def graph(planned: dict[str, Job]) -> Figure:
    """Jobs from left to right, each with lines to those that wait for it.

    Args:
        planned: see ``jobs.plan``.
    """
    depth = {}
    for name, job in planned.items():
        depth[name] = 1 + max((depth[other] for other in job.after), default=-1)
    count = Counter(depth.values())
    tallest = max(count.values())
    figure, ((axis,),) = figures.subplots(1, 1, 0.3 * tallest + 0.2)
    axis.set(xlim=(-0.05, max(depth.values()) + 0.85), ylim=(-tallest + 0.3, 0.7))
    axis.set_axis_off()
    levels = {at: iter(np.linspace(0, 1 - tallest, n + 2)[1:-1]) for at, n in count.items()}
    levels[max(count, key=count.get)] = iter(range(0, -tallest, -1))
    place = {name: (at, next(levels[at])) for name, at in depth.items()}
    for name, job in planned.items():
        x, y = place[name]
        for other in job.after:
            start, height = place[other]
            axis.plot((start + 0.78, x), (height, y), color=figures.GREY, linewidth=0.4, zorder=0)
        colour = KINDS[name.split("-")[0]]
        box = {"boxstyle": "round,pad=0.02", "fc": "white", "ec": colour, "lw": 1.5}
        axis.add_patch(FancyBboxPatch((x, y - 0.3), 0.78, 0.6, **box))
        style = {"ha": "center", "va": "center", "color": "black", "fontsize": figures.SMALL}
        axis.text(x + 0.39, y, _label(name, job), **style)
    return figure


def _label(name: str, job: Job) -> str:
    """What a job does, in words: its kind, and for how many networks."""
    networks = len({file.split("/")[0] for file in job.makes})
    plural = "s" if networks > 1 else ""
    return f"{name.split('-')[0]} {networks} network{plural}" if networks else name
