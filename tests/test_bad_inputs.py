"""What a user may get wrong, and the one line that says so, before any work; a case is a line."""

from pathlib import Path

import pytest

from robust_transfer import paths
from robust_transfer.attacks import ThreatModel
from robust_transfer.book.notebook import assemble
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.runner import Runner


def profile(**said):
    return assemble(Profile, {"profile": "smoke"} | said)


def study(**said):
    return assemble(Study, {"study": "smoke"} | said)


CASES = [
    (profile, {"epsilon": 8}, r"epsilon = 8: .* on the \[0, 1\] scale; 8 of 256 levels is 0.03125"),
    (study, {"training_epsilon": 8}, r"training_epsilon = 8: .* 8 of 256 levels is 0.03125"),
    (ThreatModel, {"epsilon": 16}, "epsilon = 16: .* 16 of 256 levels is 0.0625"),
    (profile, {"results_dir": 2024}, "results_dir = 2024: Input should be a valid string"),
    (profile, {"data_dir": ["a"]}, r"data_dir = \['a'\]: Input should be a valid string"),
    (profile, {"profile": 7}, "profile = 7: allowed are fast, laptop, .*, or a file"),
    (study, {"study": "huge"}, "study = 'huge': allowed are laptop, paper, smoke, or a file"),
    (profile, {"epsilom": 0.1}, "unknown parameter epsilom; known: .*epsilon"),
    (Runner, {"workers": "two"}, "workers = 'two': "),
]


@pytest.mark.parametrize(("entry", "given", "line"), CASES, ids=[c[2][:40] for c in CASES])
def test_a_bad_input_is_told_in_one_line(entry, given, line):
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        entry(**given)
    assert "\n" not in str(caught.value)


def test_home_may_be_written_short():
    assert paths.resolve("~/data") == str(Path.home() / "data")
    _, runner = profile(data_dir="~/data", results_dir="~/mine", published_dir="~/theirs")
    home = str(Path.home())
    assert runner.data_dir == f"{home}/data" and runner.results_dir == f"{home}/mine"
    assert runner.published_dir == f"{home}/theirs/smoke"
