"""A published cell can be measured again by anyone, image by image."""

import json

import numpy as np
import pytest

import robust_transfer as rt
from robust_transfer import paths
from robust_transfer.__main__ import main
from robust_transfer.davchev2019.verification import Verification


@pytest.mark.parametrize("column", ["natural", "wb_fgsm", "wb_pgd", "bb_pgd", "strong"])
def test_a_published_cell_is_found_again(column):
    found = rt.verify("pgd", column, profile="smoke", images=100)
    assert len(found.again) == 100 and found.differ <= 2
    (path,) = (paths.PUBLISHED / "smoke").glob(
        f"pgd-s1-*/{'strong' if column == 'strong' else 'evaluation'}-*.json"
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert abs(found.recorded.mean() - content["accuracies"].get(column, 0.5)) < 0.5
    assert str(found).startswith(f"pgd {column}: {found.differ} of 100 outcomes differ")


def test_it_says_how_many_differ():
    found = Verification(
        "pgd", "wb_pgd", np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool)
    )
    assert str(found) == (
        "pgd wb_pgd: 1 of 4 outcomes differ from the record, 25.0 % now and 50.0 % then"
    )


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("pgd", "column = '': allowed are bb_fgsm, bb_pgd, natural, strong, wb_fgsm, wb_pgd"),
        ("pdg wb_pgd", "name = 'pdg': allowed are "),
        ("surrogate wb_pgd", "surrogate wb_pgd: not measured (profile smoke)"),
    ],
)
def test_a_cell_that_is_none_is_named(cell, line, capfd):
    assert main(["verify", "--profile", "smoke", "--cell", cell]) == 1
    assert capfd.readouterr().err.startswith(f"error: {line}")


def test_other_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir = ''"):
        rt.verify("pgd", "wb_pgd", profile="overnight")
