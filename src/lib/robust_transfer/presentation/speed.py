"""What ``python -m benchmarks`` measured, as tables, figures and sentences.

A measurement is a file per kind of device, ``cpu`` or ``cuda``, with a part per question. Functions
of ``part`` speak of one device; those of ``parts``, kind → part, of every device that has it.
"""

from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.typing import DataFrameGroupBy

from robust_transfer.evaluation.intervals import with_interval
from robust_transfer.presentation.figures import INK, PALETTE, shared_legend, subplots
from robust_transfer.presentation.tables import percent, show
from robust_transfer.records.store import Store

PARTS = ("attacks", "steps", "tricks", "precision", "strength", "growth", "pipeline")
SAID = {"network": "{}", "dataset": "{}", "batch_size": "batches of {}", "rounds": "rounds: {}"}
"""Settings that stand above a table, and how."""
SPEED = "{images_per_second:.1f}\xa0[{slowest:.1f},\xa0{fastest:.1f}]"
CHANGED = "+{gained}\xa0−{lost}"
"""How a row's speed is written, and how many images another attack gained and lost."""
Parts = dict[str, dict]
"""What every kind of device found on a question."""
ROLES = dict(zip(("textbook", "ours", "peer"), PALETTE, strict=False))


def load_measured(folder: str, store: Store) -> dict[str, Parts]:
    """The measurements in a folder, part → kind → what was found; a damaged file is left out."""
    contents = {k: store.read_sealed(Path(folder) / f"{k}.json") or {} for k in ("cpu", "cuda")}
    return {
        name: {kind: content[name] for kind, content in contents.items() if name in content}
        for name in PARTS
    }


def machines(measured: dict[str, Parts]) -> Markdown:
    """Which machines measured, what they can do, and how to measure what is missing."""
    found: dict[str, dict] = {}
    for parts in measured.values():
        found |= {kind: part["machine"] for kind, part in parts.items() if kind not in found}
    lines = []
    for machine in found.values():
        speeds = ", ".join(f"{v:,.0f} in {name}" for name, v in machine["gemm_gflops"].items())
        known = " with ".join([machine["cpu_capability"], *machine["instructions"]])
        line = f"- {machine['device']}, {known}, threads: {machine['threads']}; "
        lines.append(f"{line}GFLOP/s of a plain matrix product: {speeds}")
    if absent := " ".join(name for name, parts in measured.items() if not parts):
        lines.append(f"- not measured yet: `python -m benchmarks --data-dir DIR --parts {absent}`")
    return Markdown("\n".join(lines))


def shown(parts: Parts, make: Callable[[dict], pd.DataFrame], name: str = "throughput") -> HTML:
    """The table of a part for every device, below the sentence that says where it is from.

    Args:
        parts: of every device.
        make: what makes the table.
        name: of its CSV file, before the device's.
    """
    blocks = [
        f"<p>{origin(part)}</p>{show(make(part), f'{name}-{kind}').data}"
        for kind, part in parts.items()
    ]
    return HTML("".join(blocks) or "<p>Not measured yet.</p>")


def told(parts: Parts, tell: Callable[..., str], *what: str) -> Markdown:
    """A sentence about a part, for every device."""
    return Markdown("\n".join(f"- {kind}: {tell(part, *what)}" for kind, part in parts.items()))


def origin(part: dict) -> str:
    """One sentence on machine, versions, network, data, batch and rounds of a part."""
    machine, settings = part["machine"], part["settings"]
    said = [f"{machine['device']}, torch {machine['torch']}, commit {machine['commit']}"]
    said += [text.format(settings[name]) for name, text in SAID.items() if name in settings]
    said += [f"accuracies of {n:,} images" for n in {row.get("n", 0) for row in part["rows"]} if n]
    return f"{'; '.join(said)}."


def throughput(part: dict) -> pd.DataFrame:
    """Images/s of every contestant at every work, and what else is known of it."""
    table = {}
    for row in part["rows"]:
        cells = {"images/s": SPEED.format(**row), "× textbook": f"{row['ratio']:.2f}"}
        if "robust" in row:
            cells["robust (%)"] = percent(row["robust"] / row["n"])
            cells["changed"] = CHANGED.format(**row)
        if "losses" in row:
            cells["loss, last round"] = f"{row['losses'][-1]:.3f}"
        if "warm_up_seconds" in row:
            cells["warm-up (s)"] = f"{row['warm_up_seconds']:.0f}"
        table[row["work"], row["name"]] = cells
    return pd.DataFrame.from_dict(table, "index").fillna("")


def kept_accuracies(part: dict) -> pd.DataFrame:
    """Robust accuracy where the attack ran plain, and its change in points where it did not."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in part["rows"]:
        cells = table.setdefault((f"{row['network']}, {row['architecture']}", row["work"]), {})
        if row["name"] == "plain fp32":
            cells["natural (%)"] = percent(row["natural"] / row["n"])
            cells["plain fp32 (%)"] = percent(row["robust"] / row["n"])
        else:
            points = (100 * x for x in difference(row))
            cells[f"{row['name']} (points)"] = with_interval(*points, digits=2)
            cells[f"{row['name']}: changed"] = CHANGED.format(**row)
    return pd.DataFrame.from_dict(table, "index")


def against_autoattack(part: dict) -> pd.DataFrame:
    """What strong attacks and AutoAttack's leave of the same images, and on which they differ."""
    table = {
        f"{row['network']}, {row['architecture']}": {
            "natural (%)": percent(row["natural"] / row["n"]),
            "ours leave (%)": percent(row["robust"] / row["n"]),
            "AutoAttack's leave (%)": percent(row["theirs"] / row["n"]),
            "images that only ours find": row["lost"],
            "only AutoAttack's": row["gained"],
            "seconds, ours": f"{row['seconds']:.0f}",
            "theirs": f"{row['their_seconds']:.0f}",
        }
        for row in part["rows"]
    }
    return pd.DataFrame.from_dict(table, "index")


def whole_way(part: dict) -> pd.DataFrame:
    """Minutes of the whole way."""
    minutes = {row["name"]: f"{row['seconds'][0] / 60:.1f}" for row in part["rows"]}
    return pd.DataFrame({"minutes": minutes})


def difference(row: dict) -> tuple[float, float, float]:
    """Change of a robust accuracy and its 95 % interval, paired over the images, in [-1, 1]."""
    n, gained, lost = row["n"], row["gained"], row["lost"]
    mean = (gained - lost) / n
    half = 1.96 * sqrt(((gained + lost) / n - mean**2) / (n - 1))
    return mean, mean - half, mean + half


def standing(part: dict, work: str) -> str:
    """The engine against the textbook, the fastest other library and the hardware."""
    rows = sorted(part["rows"], key=lambda row: row["images_per_second"])
    best = {row["role"]: row for row in rows if row["work"] == work}  # the last of each role
    speed = {role: row["images_per_second"] for role, row in best.items()}
    ours, bound = speed["ours"], speed["bound"]
    others = [r for r in ("textbook", "peer") if r in best]
    times = " and ".join(f"{ours / speed[r]:.2f} × {best[r]['name']}" for r in others)
    return (
        f"{work}, {best['ours']['name']}: {ours:.0f} images/s, {times}; "
        f"{100 * ours / bound:.0f} % of the {bound:.0f} that the convolutions alone allow, "
        f"at {ours * part['gflop_per_image'][work]:,.0f} GFLOP/s."
    )


def changes_in_bf16(part: dict) -> str:
    """The largest change of a robust accuracy in bf16, and how many images changed in all."""
    rows = [row for row in part["rows"] if row["name"] == "folded bf16"]
    largest = max(abs(100 * difference(row)[0]) for row in rows)
    gained, lost, n = (sum(row[name] for row in rows) for name in ("gained", "lost", "n"))
    return (
        f"no robust accuracy moves by more than {largest:.2f} points in bf16; of {n:,} attacked "
        f"images {gained} are correct after the bf16 attack alone, {lost} after the fp32 one alone."
    )


def trend(part: dict, what: str) -> str:
    """Images/s of attack and training step at both ends of a curve."""
    ends = []
    for work, rows in curves(part, what):
        first, last = (f"{r.images_per_second:.0f} at {r.x}" for r in (rows.iloc[0], rows.iloc[-1]))
        ends.append(f"{work} {first} and {last}")
    return f"images/s by {what}: {'; '.join(ends)}."


def curves(part: dict, what: str) -> DataFrameGroupBy:
    """Rows of the part growth about one thing that grows, by work."""
    rows = pd.DataFrame(part["rows"])
    return rows[rows["what"] == what].groupby("work")


def race(parts: Parts, work: str = "PGD-7") -> Figure:
    """Images/s of everyone at one attack, and a line where the bare convolutions are."""
    figure, panels = _panels(parts)
    for axis, part in panels:
        for row in reversed([row for row in part["rows"] if row["work"] == work]):
            middle = row["images_per_second"]
            if row["role"] == "bound":
                style = "--" if "bf16" in row["name"] else ":"
                axis.axvline(middle, color=INK, linestyle=style, label=row["name"])
            else:
                spread = [[middle - row["slowest"]], [row["fastest"] - middle]]
                axis.barh(row["name"], middle, xerr=spread, ecolor=INK, color=ROLES[row["role"]])
        axis.set_xlabel(f"{work}, images/s")
    shared_legend(figure, "upper right", 2)
    return figure


def growth(parts: Parts, what: str, scale: str = "linear") -> Figure:
    """Cost of an image in attack and training step against one thing that grows, on a scale."""
    figure, panels = _panels(parts)
    for axis, part in panels:
        axis.set_xscale(scale)
        for (work, rows), marker in zip(curves(part, what), "os", strict=True):
            axis.plot(rows["x"], 1000 / rows["images_per_second"], marker=marker, label=work)
        axis.set_xticks(rows["x"], rows["x"])
        axis.minorticks_off()
        axis.set(xlabel=what, ylabel="milliseconds an image", ylim=(0, None))
    shared_legend(figure, "upper right", 2)
    return figure


def _panels(parts: Parts) -> tuple[Figure, list[tuple[Axes, dict]]]:
    """A figure with a panel for every device, and what is to be drawn on each."""
    titles = list(parts) or ["not measured yet"]
    figure, axes = subplots(len(titles), 1, 3.4 * len(titles))
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_title(title)
    return figure, list(zip(axes[:, 0], parts.values(), strict=False))
