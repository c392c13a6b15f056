import ast
import re

import nbformat
import papermill
import pytest
import yaml

from robust_transfer import paths
from robust_transfer.book import notebook, pipeline
from robust_transfer.davchev2019.experiment import Profile, grid, read_profile
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.records.store import Store

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
OF_STUDY = [path for path in NOTEBOOKS if path.stem in pipeline.STUDY]


def cell_of(path) -> str:
    cell = next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert cell.metadata["tags"] == ["parameters"]
    return cell.source


def parameters(path) -> dict:
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(cell_of(path)).body}


PAGE = cell_of(paths.NOTEBOOKS / "01_source.ipynb")


def run(*cells: str) -> dict:
    """A notebook's globals after these cells."""
    return {"In": ["", *cells]}


def injected(**changes) -> str:
    """The cell that papermill adds."""
    return "\n".join(["# Parameters", *(f"{name} = {v!r}" for name, v in changes.items()), ""])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 13
    assert {path.stem for path in OF_STUDY} == {*pipeline.STUDY}


def test_files_are_numbered_as_the_book_shows_them():
    shown = re.findall(r"book/_executed/(\w+)", (paths.ROOT / "_toc.yml").read_text())
    assert shown == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_every_table_with_a_caption_is_read_by_a_sentence():
    named = set()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        said = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        shown = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in cells]
        names = {figure["name"] for figure in shown if figure.get("name", "").startswith("tab-")}
        assert names <= {*re.findall(r"{numref}`([\w-]+)`", said)}, path.stem
        named |= names
    assert "tab-main" in named and len(named) > 20


def test_what_works_on_stored_networks_suggests_a_profile_that_has_their_weights():
    example = (paths.ROOT / "examples" / "load_network.py").read_text()
    suggested = [re.findall(r"-p profile ([\w-]+)", page.read_text()) for page in NOTEBOOKS]
    assert sum(map(bool, suggested)) == 3
    for name in {*sum(suggested, re.findall(r'profile=.*# or "([\w-]+)"', example))}:
        store = Store("none", paths.PUBLISHED / name)
        for network in grid(read_profile(paths.PROFILES / f"{name}.yaml")):
            assert store.find(network.config, weights=True) is not None, (name, network.id)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_parameters_cell_names_the_smallest_scale_and_leaves_the_rest_to_its_file(path):
    said, kind = parameters(path), Study if path in OF_STUDY else Profile
    what = kind.__name__.lower()
    assert (said[what], said["published_dir"]) == ("smoke", "book/results")
    assert all(said[name] is None for name in said.keys() & kind.model_fields.keys() - {what})
    assert len(said) <= 8 and cell_of(path).startswith(f"{notebook.INJECTED} ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_says_what_it_is(path):
    helps = {p["name"]: p["help"] for p in papermill.inspect_notebook(path).values()}
    assert helps.keys() == parameters(path).keys()
    assert all(helps.values())


def test_settings_give_profile_and_absolute_paths():
    profile, runner = notebook.settings(run(PAGE, injected(epsilon=0.01, results_dir="elsewhere")))
    smoke = read_profile(paths.PROFILES / "smoke.yaml")
    assert profile == smoke.model_copy(update={"epsilon": 0.01})
    assert runner.results_dir == str(paths.ROOT / "elsewhere")
    assert runner.published_dir == str(paths.PUBLISHED / "smoke")
    assert runner.data_dir == ""


def test_what_papermill_was_given_stands_above_an_edited_cell_and_that_above_the_file():
    edited = PAGE.replace("epochs = None", "epochs = 10 - 1").replace("seed = None", "seed = 4")
    profile, _ = notebook.settings(run(PAGE, edited, injected(profile="overnight", seed=7)))
    assert (profile.profile, profile.epochs, profile.seed) == ("overnight", 9, 7)
    profile, _ = notebook.settings(run(injected(seed=7), edited, "epochs = 2", PAGE))
    assert (profile.profile, profile.epochs, profile.seed) == ("smoke", 8, 7)


@pytest.mark.parametrize("path", sorted(paths.PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_profile_is_given_by_name_by_path_or_as_papermills_file(path):
    said = yaml.safe_load(path.read_text())
    for changes in ({"profile": path.stem}, {"profile": f"notebooks/profiles/{path.name}"}, said):
        assert notebook.settings(run(PAGE, injected(**changes)))[0] == read_profile(path)


def test_a_whole_profile_of_another_name_needs_no_file():
    whole = Profile(profile="mine", epochs=3).model_dump()
    assert notebook.settings(run(PAGE, injected(**whole)))[0] == Profile(profile="mine", epochs=3)
    part = {name: whole[name] for name in ("profile", "epochs")}
    with pytest.raises(ValueError, match=r"^profile = 'mine': allowed are fast, .*, or a file$"):
        notebook.settings(run(PAGE, injected(**part)))


def test_settings_of_a_study_have_a_folder_of_their_own():
    page = cell_of(paths.NOTEBOOKS / "06_study.ipynb")
    study, runner = notebook.study_settings(run(page, injected(repeats=5)))
    assert (study.repeats, study.targets["glyphs10"].test_size) == (5, 80)
    assert runner.published_dir == str(paths.PUBLISHED / "study-smoke")
    with pytest.raises(ValueError, match=r"^unknown parameter epsilon; known: .*epsilons.*shown"):
        notebook.study_settings(run(page, injected(epsilon=1)))


@pytest.mark.parametrize("cells", [(PAGE, injected(epsilom=0.01)), (f"{PAGE}\nepsilom = 0.01",)])
def test_unknown_parameter_is_named_with_the_known_ones(cells):
    with pytest.raises(ValueError, match=r"^unknown parameter epsilom; known: .*epsilon.*image"):
        notebook.settings(run(*cells), "image")


def test_paths_that_papermill_injects_are_no_parameters():
    given = injected(PAPERMILL_INPUT_PATH="a.ipynb", PAPERMILL_OUTPUT_PATH="b.ipynb")
    assert notebook.settings(run(PAGE, given)) == notebook.settings(run(PAGE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"halves": "both"}, "halves = 'both'.*'separate' or 'joint'"),
        ({"device": "tpu"}, "device = 'tpu'.*'auto', 'cpu' or 'cuda'"),
        ({"profile": "huge"}, "profile = 'huge': allowed are fast, fifth, laptop, .*, or a file"),
        ({"profile": None}, "profile = '': allowed are fast, fifth, laptop, .*, or a file"),
    ],
)
def test_bad_value_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        notebook.settings(run(PAGE, injected(**change)))
    assert "\n" not in str(caught.value)


def test_papermill_run_with_unknown_parameter_fails(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter epsilom"):
        papermill.execute_notebook(
            paths.NOTEBOOKS / "01_source.ipynb",
            tmp_path / "out.ipynb",
            {"epsilom": 0.01},
            progress_bar=False,
        )
