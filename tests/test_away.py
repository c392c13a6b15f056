"""A run on a borrowed machine: stopped by the clock, packed, gone on with elsewhere, filed."""

import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import safetensors.torch
import torch
import yaml
from conftest import alter
from made import EMBEDDED

from robust_transfer import paths
from robust_transfer.training.checkpoints import history
from scripts import away

TINY = {"profile": "away", "train_size": 64, "validation_size": 32, "test_size": 40, "epochs": 2}
TINY |= {
    "further_seeds": [2],
    "transfer_epochs": 1,
    "training_steps": 2,
    "evaluation_steps": 2,
    "batch_size": 32,
}
NETWORKS = ["pgd", "nat-pgd-head"]
EVALUATION = "evaluation-0123456789abcdef.json"


@pytest.fixture(scope="module")
def borrowed(tmp_path_factory):
    """A profile, and folders of a borrowed machine and of home."""
    root = tmp_path_factory.mktemp("borrowed")
    shutil.copytree(paths.PROFILES, root / "profiles")
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text())
    (root / "profiles" / "away.yaml").write_text(yaml.safe_dump(smoke | TINY))
    return root


@pytest.fixture
def there(borrowed, monkeypatch):
    """Call the script with its profile and publication kept apart from the project's."""
    monkeypatch.setattr(paths, "PUBLISHED", borrowed / "published")
    monkeypatch.setattr(paths, "PROFILES", borrowed / "profiles")

    def call(command, machine, *arguments):
        shared = ["--profile", str(borrowed / "profiles" / "away.yaml"), "--workers", "1"]
        shared += ["--packs", str(borrowed / "packs"), "--results-dir", str(borrowed / machine)]
        shared += ["--networks", *NETWORKS]
        return away.main([command, *shared, *arguments])

    return call


def finished(folder):
    return sorted(json.loads(p.read_text())["hash"] for p in folder.glob("*/record.json"))


@pytest.mark.slow
def test_a_run_comes_home_and_is_filed(there, borrowed, capfd):
    assert there("run", "first") == 0
    output = capfd.readouterr().out
    assert "everything is done: 5 networks are finished" in output
    told = r"\r{}-s1-\w+: epoch \d, [\d.]+ s, learning_rate .*{} [\d.]+ *\n"
    for network, last, epochs in (("pgd", "adversarial", 2), ("surrogate", "natural", 2)):
        assert len(re.findall(told.format(network, last), output)) == epochs
    packs = sorted((borrowed / "packs").glob("pack-*.tar"))
    assert packs and all(path.stat().st_size <= away.PACK_BYTES for path in packs)

    assert there("run", "second") == 0  # a fresh machine with the packs trains nothing
    output = capfd.readouterr().out
    assert "training" not in output and "evaluating" not in output
    assert finished(borrowed / "second") == finished(borrowed / "first")

    assert there("file", "home") == 0
    output = capfd.readouterr().out
    # one row is behind the headline, and has a further seed
    assert output.count("outcomes differ") == len(away.CHECKED) * (len(NETWORKS) + 1)
    assert "not finished yet: glyphs20-fgsm" in output
    published = borrowed / "published" / "away"
    assert finished(published) == finished(borrowed / "first")
    for seed, count in ((1, 1), (2, 0)):  # all but Table 1's are of the profile's own seed
        assert len(list(published.glob(f"pgd-s{seed}-*/evaluation-*.json"))) == 1
        for kind in ("strong", "budgets"):
            assert len(list(published.glob(f"pgd-s{seed}-*/{kind}-*.json"))) == count
    assert list(published.glob("pgd-s1-*/weights*")) and not list(
        published.glob("pgd-s2-*/weights*")
    )


@pytest.fixture
def file(tmp_path):
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--home", "nowhere"], "home = 'nowhere': no such file"),
        (["--profile", "slow"], "profile = 'slow': allowed are away, fast, .*, or a file"),
        (["--networks", "pgd", "gpd"], "networks = 'gpd': allowed are fgsm, "),
        (["--data-dir", "nowhere"], "data_dir = 'nowhere': no such folder"),
        (["--profile", "fast"], "data_dir = '': cifar100 needs the folder of its images"),
        (["--data-dir", "FILE"], "data_dir = '.*file': a file; allowed is a folder"),
        (["--packs", "FILE"], "packs = '.*file': a file; allowed is a folder"),
        (["--results-dir", "FILE"], "results_dir = '.*file': a file; allowed is a folder"),
        (["--packs", "FILE/packs"], ".* Not a directory: '.*file/packs'"),
        (["--seconds", "0"], "argument --seconds: 0: allowed are whole numbers from 1"),
        (["--seconds", "soon"], "argument --seconds: soon: allowed are whole numbers from 1"),
        (["--workers", "-1"], "argument --workers: .*"),
        (["--worker", "two"], "argument --workers: two: allowed are whole numbers from 0"),
        (["--faster"], "unrecognized arguments: --faster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refused_option_is_named_in_one_line_before_anything_runs(
    there, borrowed, file, capfd, arguments, message
):
    assert there("run", "never", *(word.replace("FILE", file) for word in arguments)) == 2
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"error: {message}.*\n", err)
    assert not (borrowed / "never").exists()


def test_a_command_is_needed(capfd):
    assert away.main([]) == 2 and away.main(["walk"]) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first == "error: the following arguments are required: command"
    assert second.startswith("error: argument command: invalid choice: 'walk'")


def test_packs_that_did_not_come_and_damaged_ones_are_named(there, borrowed, tmp_path, capfd):
    assert there("file", "never", "--packs", "nowhere") == 2
    assert capfd.readouterr().err == "error: packs = 'nowhere': no such folder\n"
    (tmp_path / "pack-0.tar").write_text("half a pack")
    for command in ("run", "file"):
        assert there(command, "never", "--packs", str(tmp_path)) == 1
        assert re.fullmatch(
            "error: .*pack-0.tar: not a readable pack, copy it anew .*\n", capfd.readouterr().err
        )
    assert not (borrowed / "never").exists()


@pytest.mark.parametrize(
    ("name", "kind", "size", "said"),
    [
        ("../a/record.json", tarfile.REGTYPE, 1, "'../a/record.json' is no file of a network"),
        ("/a/record.json", tarfile.REGTYPE, 1, "'/a/record.json' is no file of a network"),
        ("a/b/record.json", tarfile.REGTYPE, 1, "'a/b/record.json' is no file of a network"),
        ("a/program.py", tarfile.REGTYPE, 1, "'a/program.py' is no file of a network"),
        ("a/record.json", tarfile.SYMTYPE, 0, "'a/record.json' is no file of a network"),
        ("a/record.json", tarfile.REGTYPE, 40_960, "unpacks to more than 0 MiB"),
    ],
)
def test_a_pack_that_is_none_is_refused(tmp_path, monkeypatch, name, kind, size, said):
    monkeypatch.setattr(away, "PACK_BYTES", 40_959)
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, "/etc/hostname"
    with tarfile.open(tmp_path / "pack-0.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(b"x" * size))
    with pytest.raises(ValueError, match=f"pack-0.tar: {re.escape(said)}$"):
        away.unpack(tmp_path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_pack_that_would_unpack_to_more_than_itself_is_refused(tmp_path):
    content = lzma.compress(bytes(10 << 20))
    (tmp_path / "pack-0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"pack-0\.tar: not a readable pack, copy it anew"):
        away.unpack(tmp_path, tmp_path / "there")


STUDY = {
    "study": "away",
    "tasks": {"glyphs10/resnet8": "strategies"},
    "targets": {
        "glyphs10": {
            "train_size": 64,
            "validation_size": 16,
            "test_size": 20,
            "strong_images": 4,
            "epochs": 2,
        }
    },
    "techniques": ["augmentation"],
    "training_steps": 1,
    "epsilons": [0.02],
    "shown": [0.02],
} | EMBEDDED


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Folders of a study of its own, which a borrowed machine has been through."""
    root = tmp_path_factory.mktemp("studied")
    (root / "studies").mkdir()
    (root / "studies" / "away.yaml").write_text(yaml.safe_dump(STUDY))
    assert on_a_study(root, "run", "first") == 0
    return root


def on_a_study(root, command, machine):
    """Call the script with the study that lies there."""
    where = ["--packs", str(root / "packs"), "--results-dir", str(root / machine)]
    study = ["--study", str(root / "studies" / "away.yaml"), "--workers", "1"]
    return away.main([command, *study, *where])


@pytest.mark.slow
def test_a_study_comes_home_and_is_filed(studied, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
    monkeypatch.setattr(paths, "STUDIES", studied / "studies")
    there, published = studied / "first", tmp_path / "study-away"
    assert len(finished(there)) == len(list(there.glob("*/weights*"))) == 1 + 3 * 2
    capfd.readouterr()
    assert on_a_study(studied, "file", "home") == 0
    assert capfd.readouterr().out == "everything is published\n"
    assert finished(published) == finished(there)
    (source,) = published.glob("*/weights*")
    assert source.parent.name.startswith("glyphs20-resnet8-nat-")
    measured = sorted(path.name.partition("-")[0] for path in published.glob("*/*-*.json"))
    assert measured == ["budgets"] * 6 + ["strong"] * 3  # of the first seed
    assert len(list(published.glob("*/flow.json"))) == 1
    assert (published / "study.csv").exists()


@pytest.mark.slow
def test_a_fresh_machine_trains_no_network_of_a_study_again(studied, tmp_path, capfd):
    for folder in ("packs", "studies"):
        shutil.copytree(studied / folder, tmp_path / folder)
    capfd.readouterr()
    assert on_a_study(tmp_path, "run", "second") == 0
    assert "set aside" not in capfd.readouterr().out
    assert finished(tmp_path / "second") == finished(studied / "first")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "huge"], "study = 'huge': allowed are factorial, imagenet, .*, or a file"),
        (["--study", "smoke", "--networks", "pgd"], "networks = 'pgd': allowed are glyphs10-.*"),
        (["--study", "imagenet"], "data_dir = '': cifar10 needs the folder of its images"),
        (["--study", "factorial", "--data-dir", "nowhere"], "data_dir = 'nowhere': no such folder"),
        (["--study", "imagenet", "--data-dir", "."], "data_dir = '.': .*cifar10.*"),
        (["--study", "smoke", "--packs", "FILE"], "packs = '.*file': a file; allowed is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_study_that_cannot_run_is_refused_in_one_line(tmp_path, file, capfd, arguments, message):
    where = ["--packs", str(tmp_path / "packs"), "--results-dir", str(tmp_path / "never")]
    assert away.main(["run", *where, *(word.replace("FILE", file) for word in arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"error: {message}\n", err)
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_outcomes_that_are_not_the_networks_are_refused(there, borrowed, capfd):
    there("run", "first")
    shutil.copytree(borrowed / "first", borrowed / "altered")
    for path in (borrowed / "altered").glob("pgd-s1-*/evaluation-*.json"):
        outcomes = json.loads(path.read_text())["outcomes"]
        alter(path, outcomes=outcomes | {"natural": outcomes["wb_pgd"]})
    assert there("file", "altered") == 1
    message = "error: pgd natural: .* outcomes differ from the record"
    assert re.match(message, capfd.readouterr().err)


def test_what_does_not_fit_is_named_and_is_not_a_finished_record(tmp_path, monkeypatch):
    monkeypatch.setattr(away, "PACK_BYTES", 40_960)
    monkeypatch.setattr(away, "PACKS", 2)
    results = tmp_path / "results"
    for name, files in {
        "a": {"checkpoint.safetensors": 25_000},
        "b": {"checkpoint.safetensors": 25_000},
        "z": {"record.json": 100, "weights.safetensors": 20_000},
    }.items():
        (results / name).mkdir(parents=True)
        for file, size in files.items():
            (results / name / file).write_bytes(b"x" * size)
    for name in (".lock", ".weights.safetensors-half", "history.csv.damaged"):
        (results / "z" / name).write_bytes(b"x")
    left = away.pack(results, tmp_path / "packs")
    assert left == [results / "b"]
    packs = sorted((tmp_path / "packs").iterdir())
    assert len(packs) == 2 and all(path.stat().st_size <= 40_960 for path in packs)
    (tmp_path / "there" / "z").mkdir(parents=True)
    (tmp_path / "there" / "z" / "record.json").write_text("newer")
    away.unpack(tmp_path / "packs", tmp_path / "there")
    assert (tmp_path / "there" / "z" / "record.json").read_text() == "newer"
    found = {p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").glob("*/*")}
    assert found == {"a/checkpoint.safetensors", "z/record.json", "z/weights.safetensors"}


def test_what_came_home_stays_where_it_is_but_a_checkpoint_moves_on(tmp_path):
    for name in ("a/record.json", f"a/{EVALUATION}", "b/checkpoint.safetensors"):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    home = ["a/record.json", "b/checkpoint.safetensors"]
    assert not away.pack(tmp_path / "results", tmp_path / "packs", home)
    away.unpack(tmp_path / "packs", tmp_path / "there")
    found = sorted(p.relative_to(tmp_path / "there") for p in (tmp_path / "there").glob("*/*"))
    assert list(map(str, found)) == [f"a/{EVALUATION}", "b/checkpoint.safetensors"]


def test_weights_that_are_to_stay_are_not_packed(tmp_path):
    for name in ("a", "b"):
        for file in (
            "record.json",
            "weights.safetensors",
            "flow.json",
            "strong-" + EVALUATION[11:],
        ):
            path = tmp_path / "results" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    assert not away.pack(tmp_path / "results", tmp_path / "packs", bare=["a"])
    away.unpack(tmp_path / "packs", tmp_path / "there")
    found = {p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").glob("*/*")}
    whole = {p.relative_to(tmp_path / "results").as_posix() for p in tmp_path.glob("results/*/*")}
    assert whole - found == {"a/weights.safetensors"} and found < whole
    assert away.layers.NAME == "flow.json"


@pytest.mark.parametrize(("brought", "stays"), [(2, 2), (1, 1), (0, 1)])
def test_the_checkpoint_with_more_epochs_stays(tmp_path, brought, stays):
    for machine, epochs in (("away", brought), ("home", 1)):
        path = tmp_path / machine / "a" / "checkpoint.safetensors"
        path.parent.mkdir(parents=True)
        progress = json.dumps({"history": [{}] * epochs})
        safetensors.torch.save_file({"w": torch.zeros(1)}, path, {"progress": progress})
    away.pack(tmp_path / "away", tmp_path / "packs")
    away.unpack(tmp_path / "packs", tmp_path / "home")
    assert len(history(tmp_path / "home" / "a" / "checkpoint.safetensors")) == stays


def test_a_pack_full_of_small_files_is_no_larger_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(away, "PACK_BYTES", 200 << 10)
    for number in range(100):
        folder = tmp_path / "results" / f"network-{number}"
        folder.mkdir(parents=True)
        for name in ("record.json", "history.csv", EVALUATION):
            (folder / name).write_bytes(b"x" * 700)
    assert away.pack(tmp_path / "results", tmp_path / "packs")
    packs = list((tmp_path / "packs").iterdir())
    assert len(packs) == away.PACKS
    assert all(path.stat().st_size <= away.PACK_BYTES for path in packs)
    away.unpack(tmp_path / "packs", tmp_path / "there")
    assert all(len(list(folder.iterdir())) == 3 for folder in (tmp_path / "there").iterdir())


def test_decoded_images_are_not_packed(tmp_path):
    for name in ("a/record.json", "decoded/cifar10.safetensors"):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True)
        path.write_text("")
    away.pack(tmp_path / "results", tmp_path / "packs")
    away.unpack(tmp_path / "packs", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("command", "free", "given", "expected"),
    [
        ("run", 2 << 30, "", "memory"),
        ("run", 2 << 20, "", "disk"),  # a container's
        ("run", None, "", "disk"),
        ("file", 2 << 30, "", "disk"),
        ("run", 2 << 30, "own", "own"),
    ],
)
def test_results_are_in_memory_where_there_is_room(
    tmp_path, monkeypatch, command, free, given, expected
):
    monkeypatch.setattr(away, "MEMORY", tmp_path / "memory")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    if free:
        (tmp_path / "memory").mkdir()
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    places = {"memory": tmp_path / "memory" / f"robust_transfer-{os.getuid()}"}
    places |= {"disk": tmp_path / "results", "own": tmp_path / "own"}
    options = ["--profile", "smoke", "--packs", str(tmp_path)]
    options += ["--results-dir", str(places[given])] if given else []
    _, runner = away._checked(away._parser().parse_args([command, *options]))
    assert runner.results_dir == str(places[expected])


def test_a_run_of_two_workers_has_the_process_service(there, service, tmp_path):
    assert there("run", "service", "--workers", "2", "--networks", "nat") == 0
    assert service() == ["start", "program", "quit"]


def test_a_borrowed_machine_needs_no_notebooks(tmp_path):
    """The run imports none of papermill, nbformat, IPython or jupyter-book."""
    code = "import sys; sys.path.insert(0, 'src/lib'); import scripts.away; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded and not loaded & {"papermill", "nbformat", "IPython", "jupyter_book"}


@pytest.mark.slow
def test_the_clock_stops_a_run_which_then_goes_on(borrowed, tmp_path):
    """For real: a process with a worker, ended in the midst of a training that has no end."""
    endless = yaml.safe_load((borrowed / "profiles" / "away.yaml").read_text()) | {"epochs": 10_000}
    (tmp_path / "endless.yaml").write_text(yaml.safe_dump(endless))
    command = [
        *(sys.executable, "-m", "scripts.away", "run", "--profile", str(tmp_path / "endless.yaml")),
        *("--networks", "nat", "--seconds", "40", "--workers", "1"),
        *("--packs", str(tmp_path / "packs"), "--results-dir"),
    ]
    epochs = []
    for machine in ("first", "second"):
        done = subprocess.run(
            [*command, str(tmp_path / machine)], cwd=paths.ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "time is up: 0 networks are finished" in done.stdout
        (checkpoint,) = (tmp_path / machine).glob("*/checkpoint.safetensors")
        epochs.append(len(history(checkpoint)))
    assert 0 < epochs[0] < epochs[1]
