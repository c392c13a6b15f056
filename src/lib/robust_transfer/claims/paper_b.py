"""The claims of paper B: what its printed tables settle by themselves, and what waits for runs."""

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer import paths
from robust_transfer.claims.evidence import Evidence
from robust_transfer.claims.outcome import ALPHA
from robust_transfer.claims.rules import Check, Claim, Fact


def printed() -> pd.DataFrame:
    """PGD accuracies of Tables I and II in percent: a row per data set."""
    first = pd.read_csv(paths.REFERENCE / "myakala2022_table1.csv")
    second = pd.read_csv(paths.REFERENCE / "myakala2022_table2.csv").set_index("dataset")
    return first.pivot(index="dataset", columns="strategy", values="pgd").join(second)


def gains(first: pd.Series, second: pd.Series) -> tuple[float, float]:
    """Largest gain of ``first`` over ``second``: in points, and in percent of ``second``."""
    return (first - second).max(), (100 * (first / second - 1)).max()


def freezing(_: Evidence) -> Fact:
    """M02: layer freezing over full fine-tuning, at most."""
    table = printed()
    points, relative = gains(table["layer_freezing"], table["full_finetuning"])
    text = f"at most {points:.1f} points, {relative:.1f} %"
    return Fact(bool(max(points, relative) >= 5.2), text, "5.2 %")


def pretraining(_: Evidence) -> Fact:
    """M04: adversarial pre-training over any strategy without it, at most."""
    table = printed()
    strategies = ("full_finetuning", "feature_extraction", "layer_freezing")
    pairs = [gains(table["with_pretraining"], table[strategy]) for strategy in strategies]
    points, relative = np.max(pairs, axis=0)
    text = f"at most {points:.1f} points, {relative:.1f} %"
    return Fact(bool(max(points, relative) >= 25), text, "25 %")


def power(_: Evidence) -> Fact:
    """M11: largest spread of three paired differences that a t-test still calls significant."""
    table = printed()
    runs = 3
    differences = (table["layer_freezing"] - table["full_finetuning"]).sort_values(ascending=False)
    spread = differences * np.sqrt(runs) / stats.t.ppf(1 - ALPHA / 2, runs - 1)
    text = ", ".join(f"{name} {value:.2f}" for name, value in spread.items())
    return Fact(None, f"standard deviation at most {text} points")


RUNS = "needs the experiment of this paper, which has not been run here"
READING = "settled by reading the paper and what it cites, not by computing"

GROUPS = {
    "Second paper": {
        "M02": Claim(Check("gain under PGD in the printed table reaches 5.2 %", freezing)),
        "M04": Claim(
            Check("gain under PGD in the printed tables reaches 25 %", pretraining),
            lacking="robust and natural sources of this paper's kind have not been compared here",
        ),
        "M11": Claim(
            Check("what p < 0.05 in three runs implies", power),
            lacking="no run of ours says how large the spread over seeds is",
        ),
    }
    | {f"M{i:02}": Claim(lacking=READING) for i in (21, 22, 23)}
    | {f"M{i:02}": Claim(lacking=RUNS) for i in (1, 3, *range(5, 11), *range(12, 21))}
}
"""All claims of paper B; those that its printed tables decide come first."""
