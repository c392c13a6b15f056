import ast
import json

import nbformat
import papermill
import pytest
import yaml

from robust_transfer import notebook, paths
from robust_transfer.experiments import Profile
from robust_transfer.runner import Runner

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


def parameters(path) -> dict:
    cell = next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert cell.metadata["tags"] == ["parameters"]
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(cell.source).body}


def namespace(**changes) -> dict:
    return parameters(paths.NOTEBOOKS / "01_source.ipynb") | changes


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_cell_is_the_smoke_profile(path):
    given = parameters(path)
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text())
    expected = json.loads(Profile(**smoke).model_dump_json())
    assert {name: given[name] for name in expected} == expected
    assert {*Runner.model_fields} <= {*given}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_says_what_it_is(path):
    helps = {p["name"]: p["help"] for p in papermill.inspect_notebook(path).values()}
    unexplained = {name for name, text in helps.items() if not text}
    assert unexplained <= {"surrogate_batch_size", "learning_rate"}


def test_settings_give_profile_and_absolute_paths():
    profile, runner = notebook.settings(namespace(epsilon=0.01, results_dir="elsewhere"))
    assert profile.epsilon == 0.01
    assert runner.results_dir == str(paths.ROOT / "elsewhere")
    assert runner.published_dir == str(paths.PUBLISHED / "smoke")
    assert runner.data_dir == ""


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
