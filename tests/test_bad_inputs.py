"""What a user may get wrong, and the one line that says so, before any work; a case is a line."""

import re
from pathlib import Path

import pytest

from robust_transfer import paths
from robust_transfer.__main__ import main
from robust_transfer.attacks import ThreatModel
from robust_transfer.book.notebook import assemble
from robust_transfer.davchev2019.experiment import SCALES, Profile
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.runner import Runner


def profile(**said):
    return assemble(Profile, {"profile": "smoke"} | said)


def study(**said):
    return assemble(Study, {"study": "smoke"} | said)


CASES = [
    (profile, {"train_size": 10**30}, "train_size = 1000.*: .* less than or equal to 10000000"),
    (profile, {"epochs": 10**9}, "epochs = 1000000000: .* less than or equal to 10000000"),
    (profile, {"seed": 2**40}, "seed = 1099511627776: .* less than 4294967296"),
    (profile, {"further_seeds": [-1]}, r"further_seeds.0 = -1: .* greater than or equal to 0"),
    (study, {"batch_size": 10**20}, "batch_size = 1000.*: .* less than or equal to 10000000"),
    (study, {"source_image_size": 10**6}, "source_image_size = 1000000: .* equal to 4096"),
    (
        profile,
        {"target_dataset": "chestxray14"},
        "target_dataset = 'chestxray14': has independent labels; allowed are chest_xray8, .* cifar",
    ),
    (profile, {"epsilon": 8}, r"epsilon = 8: .* on the \[0, 1\] scale; 8 of 256 levels is 0.03125"),
    (study, {"training_epsilon": 8}, r"training_epsilon = 8: .* 8 of 256 levels is 0.03125"),
    (ThreatModel, {"epsilon": 16}, "epsilon = 16: .* 16 of 256 levels is 0.0625"),
    (profile, {"results_dir": 2024}, "results_dir = 2024: Input should be a valid string"),
    (profile, {"data_dir": ["a"]}, r"data_dir = \['a'\]: Input should be a valid string"),
    (profile, {"profile": 7}, "profile = 7: allowed are fast, fifth, laptop, .*, or a file"),
    (
        study,
        {"study": "huge"},
        "study = 'huge': allowed are factorial, imagenet, laptop, paper, .*, or a file",
    ),
    (profile, {"epsilom": 0.1}, "unknown parameter epsilom; known: .*epsilon"),
    (Runner, {"workers": "two"}, "workers = 'two': "),
    (Runner, {"workers": True}, "workers = True: allowed is no yes or no"),
    (Runner, {"results_dir": ""}, "results_dir = '': String should have at least 1 character"),
    (profile, {"data_dir": "~nobody-here/x"}, "~nobody-here/x: nobody of that name has a home"),
]


@pytest.mark.parametrize(("entry", "given", "line"), CASES, ids=[c[2][:40] for c in CASES])
def test_a_bad_input_is_told_in_one_line(entry, given, line):
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        entry(**given)
    assert "\n" not in str(caught.value)


FILES = {
    "epsilon: 0.1\nepsilon: 0.2": "not YAML: epsilon stands twice",
    "7: 3": "7 is no name; allowed are lines of name: value",
    "- profile": "a list; allowed are lines of name: value",
    "profile: a\nema: 0.9": "unknown parameter ema; known: adversarial_weight_decay, ",
    "profile: a\nepsilon: 8": "epsilon = 8: .* 8 of 256 levels is 0.03125",
    "epsilon: 0.1": "a profile gives its name; profile is missing",
    "profile: caf\xe9": "not YAML: 'utf-8' codec can't decode byte 0xe9 ",
    "profile: [a": "not YAML: ",
    "profile: a\nepochs: 010": "not YAML: 010: numbers are written as decimals",
    "profile: a\nepochs: 1:30": "not YAML: 1:30: numbers are written as decimals",
    "profile: 2024-13-45": "not YAML: month must be in 1..12",
    "profile: a\nepsilon: yes": "epsilon = True: allowed is no yes or no",
    "profile: a\nepsilon: 8e0": "epsilon = '8e0': .* 8 of 256 levels is 0.03125",
    "profile: a\nlearning_rate: .inf": "learning_rate = inf: Input should be a finite number",
    "profile: a\ndecay_epochs: [-5]": "decay_epochs.0 = -5: .* greater than or equal to 0",
}


@pytest.mark.parametrize(("text", "line"), FILES.items())
def test_a_bad_file_is_named_with_what_is_wrong_in_one_line(tmp_path, text, line):
    path = tmp_path / "own.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{path}: {line}") as caught:
        profile(profile=str(path))
    assert "\n" not in str(caught.value)


COMMANDS = {
    "": (2, "the following arguments are required: command"),
    "walk": (2, "argument command: invalid choice: 'walk'"),
    "run --workers two": (2, "argument --workers: invalid int value: 'two'"),
    "run --device tpu": (2, "argument --device: invalid choice: 'tpu'"),
    "run --faster": (2, "unrecognized arguments: --faster"),
    "run --workers -1": (1, "workers = -1: Input should be greater than or equal to 0"),
    "run --profile slow": (1, "profile = 'slow': allowed are fast, "),
    "publish --results-dir nowhere": (1, "results_dir = '.*nowhere': no such folder"),
    "publish --profile slow": (1, "profile = 'slow': allowed are fast, "),
    "run --profile laptop --data-dir nowhere": (1, "data_dir = '.*nowhere': no such folder"),
}


@pytest.mark.parametrize(("words", "expected"), COMMANDS.items())
def test_a_bad_command_is_told_in_one_line(words, expected, capfd):
    code, line = expected
    assert main(words.split()) == code
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"error: {line}.*\n", err)


def test_a_book_without_records_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "results")
    assert main(["run", "--published"]) == 1
    said = capfd.readouterr().err
    assert said == f"error: {tmp_path}/results: no table1.csv in any of {', '.join(SCALES)}\n"


def test_a_profile_changed_under_its_name_is_not_published(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "results")
    text = (paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8")
    changed = text.replace("test_size:", "test_size: 1  #")
    assert changed != text
    (tmp_path / "mine.yaml").write_text(changed, encoding="utf-8")
    where = ["--results-dir", str(tmp_path)]
    assert main(["publish", "--profile", str(tmp_path / "mine.yaml"), *where]) == 1
    said = "profile = 'smoke': it is not what notebooks/profiles/smoke.yaml says; allowed is that"
    assert capfd.readouterr().err.startswith(f"error: {said}")
    assert not (tmp_path / "results").exists()


def test_home_may_be_written_short():
    assert paths.resolve("~/data") == str(Path.home() / "data")
    _, runner = profile(data_dir="~/data", results_dir="~/mine", published_dir="~/theirs")
    home = str(Path.home())
    assert runner.data_dir == f"{home}/data" and runner.results_dir == f"{home}/mine"
    assert runner.published_dir == f"{home}/theirs/smoke"
