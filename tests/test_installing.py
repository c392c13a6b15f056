"""What is installed is what was asked for: the locks agree with the requirements, hash by hash."""

import os
import re
import shlex
import subprocess

import pytest

from robust_transfer import paths

LISTS = ("requirements", "requirements-dev", "benchmarks/requirements", "workflow/requirements")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def asked(name):
    lines = (paths.ROOT / f"{name}.txt").read_text().splitlines()
    return {line.split("#")[0].strip() for line in lines} - {""}


def locked(name):
    """Each locked package, as ``name==version``, with the text of its marker and hashes."""
    text = (paths.ROOT / f"{name}.lock").read_text()
    return dict(re.findall(r"^([^\s#]+)(.*(?:\n\s.*)*)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LISTS)
def test_a_lock_has_every_requirement_as_pinned_and_nothing_without_a_hash(name):
    packages = locked(name)
    assert asked(name) <= packages.keys(), "make lock"
    assert all("==" in package for package in packages)
    assert [package for package, rest in packages.items() if not HASH.search(rest)] == []


def test_the_locks_are_of_one_mind_and_name_no_place_to_load_from():
    main, tests = (locked(name).keys() for name in LISTS[:2])
    shared = {package.split("==")[0] for package in main}
    assert {package for package in tests if package.split("==")[0] in shared} <= main
    assert [name for name in LISTS if "://" in (paths.ROOT / f"{name}.lock").read_text()] == []


def test_without_cuda_just_what_only_linux_gets_is_left_out():
    pattern = re.search(r"!/(.+)/}", (paths.ROOT / "Makefile").read_text())[1]
    packages = locked("requirements")
    left_out = {package for package in packages if re.search(pattern, package)}
    assert left_out == {package for package, rest in packages.items() if "'linux'" in rest}


def test_make_takes_folders_with_spaces():
    given = ["PROFILE=my own.yaml", "DATA_DIR=my images", "RESULTS_DIR=my results"]
    # Without what `make test` hands down to a make of its own.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    for target in ("run", "book", "publish"):
        made = subprocess.run(
            ["make", "--dry-run", target, *given],
            cwd=paths.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        words = shlex.split(made.stdout.splitlines()[-1])
        assert words[words.index("--results-dir") + 1] == "my results"
        assert "--profile" not in words or words[words.index("--profile") + 1] == "my own.yaml"
        assert "--data-dir" not in words or words[words.index("--data-dir") + 1] == "my images"


def test_make_hands_folders_with_spaces_to_the_engine_too():
    given = ["PROFILE=my own.yaml", "DATA_DIR=my images", "RESULTS_DIR=my results"]
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    made = subprocess.run(
        ["make", "--dry-run", "cluster", *given],
        cwd=paths.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(made.stdout.replace("\\\n", " "))
    assert words[-3:] == ["profile=my own.yaml", "data_dir=my images", "results_dir=my results"]
