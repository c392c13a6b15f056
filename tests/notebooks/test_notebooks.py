import ast
import json
import re

import nbformat
import papermill
import pytest

from robust_transfer import paths
from robust_transfer.book import notebook, pipeline
from robust_transfer.davchev2019.experiment import grid, read_profile
from robust_transfer.myakala2022.experiment import read_study
from robust_transfer.records.store import Store
from robust_transfer.runner import Runner

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
OF_STUDY = [path for path in NOTEBOOKS if path.stem in pipeline.STUDY]


def parameters(path) -> dict:
    cell = next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert cell.metadata["tags"] == ["parameters"]
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(cell.source).body}


def namespace(**changes) -> dict:
    return parameters(paths.NOTEBOOKS / "01_source.ipynb") | changes


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 12
    assert {path.stem for path in OF_STUDY} == {*pipeline.STUDY}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_what_works_on_stored_networks_suggests_a_profile_that_has_their_weights():
    pages = [paths.NOTEBOOKS / f"{name}.ipynb" for name in pipeline.DEMONSTRATIONS]
    example = (paths.ROOT / "examples" / "load_network.py").read_text()
    suggested = set(re.findall(r"# or ([\w-]+)\.yaml", example))
    for page in pages:
        found = re.findall(r"-f notebooks/profiles/([\w-]+)\.yaml", page.read_text())
        assert found
        suggested.update(found)
    for name in suggested:
        store = Store("none", paths.PUBLISHED / name)
        for network in grid(read_profile(paths.PROFILES / f"{name}.yaml")):
            assert store.find(network.config, weights=True) is not None, (name, network.id)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_cell_is_the_smoke_profile(path):
    given = parameters(path)
    smoke = read_study(paths.STUDIES / "smoke.yaml")
    if path not in OF_STUDY:
        smoke = read_profile(paths.PROFILES / "smoke.yaml")
    expected = json.loads(smoke.model_dump_json())
    assert {name: given[name] for name in expected} == expected
    assert {*Runner.model_fields} <= {*given}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_says_what_it_is(path):
    helps = {p["name"]: p["help"] for p in papermill.inspect_notebook(path).values()}
    unexplained = {name for name, text in helps.items() if not text}
    assert unexplained <= {"surrogate_batch_size", "learning_rate", "targets"}


def test_settings_give_profile_and_absolute_paths():
    profile, runner = notebook.settings(namespace(epsilon=0.01, results_dir="elsewhere"))
    assert profile.epsilon == 0.01
    assert runner.results_dir == str(paths.ROOT / "elsewhere")
    assert runner.published_dir == str(paths.PUBLISHED / "smoke")
    assert runner.data_dir == ""


def test_settings_of_a_study_have_a_folder_of_their_own():
    given = parameters(paths.NOTEBOOKS / "10_study.ipynb")
    study, runner = notebook.study_settings(given)
    assert study.targets["glyphs10"].test_size == 80
    assert runner.published_dir == str(paths.PUBLISHED / "study-smoke")
    with pytest.raises(ValueError, match=r"^unknown parameter epsilon; known: .*epsilons.*shown"):
        notebook.study_settings(given | {"In": ["# Parameters\nepsilon = 1\n"]})


def test_injected_unknown_parameter_is_named_with_the_known_ones():
    cells = ["seed = 1", "# Parameters\nepsilom = 0.01\nimage = 2\n"]
    with pytest.raises(ValueError, match=r"^unknown parameter epsilom; known: .*epsilon.*image"):
        notebook.settings(namespace(In=cells, image=2), "image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"halves": "both"}, "halves = 'both'.*'separate' or 'joint'"),
        ({"device": "tpu"}, "device = 'tpu'.*'auto', 'cpu' or 'cuda'"),
    ],
)
def test_bad_value_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        notebook.settings(namespace(**change))
    assert "\n" not in str(caught.value)


def test_papermill_run_with_unknown_parameter_fails(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter epsilom"):
        papermill.execute_notebook(
            paths.NOTEBOOKS / "01_source.ipynb",
            tmp_path / "out.ipynb",
            {"epsilom": 0.01},
            progress_bar=False,
        )
