"""The benchmark's real code on tiny networks, and what the notebook shows of it."""

import json
import math

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import growth, machine, pipeline, sides, strength
from benchmarks.__main__ import main
from benchmarks.accuracy import judge
from benchmarks.loops import Convolutions, attack_batch, fold_batch_norm
from benchmarks.peers import foolbox
from benchmarks.settings import ATTACKS, Bench, Settings
from robust_transfer.networks.registry import NETWORKS, PRETRAINED, build
from robust_transfer.presentation import speed
from robust_transfer.records.store import Store

TINY = "--dataset glyphs10 --network resnet8 --train-size 96 --validation-size 32 --epochs 1"
TINY += " --profile smoke --rounds 1 --batch-size 16 --images 32 --peers foolbox --device cpu"
PARTS = ("attacks", "steps", "tricks", "precision", "growth")


@pytest.fixture(autouse=True, scope="module")
def little():
    """Fewer and smaller things to measure; the code that measures them is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "DEPTHS", (20,))
        patch.setattr(growth, "STEPS", (1, 3))
        patch.setattr(growth, "PROCESSES", (2,))
        patch.setattr(machine, "SIDES", {"cpu": 256})
        yield


@pytest.fixture(scope="module")
def folder(little, tmp_path_factory):
    """Folder of a measurement without the pipeline, which has tests of its own."""
    folder = tmp_path_factory.mktemp("benchmarks")
    assert main([*TINY.split(), "--out", str(folder), "--parts", *PARTS]) == 0
    return folder


@pytest.fixture
def measured(folder, tmp_path):
    return speed.load_measured(str(folder), Store(tmp_path))


@pytest.fixture
def rows(measured):
    return {name: parts["cpu"]["rows"] for name, parts in measured.items() if parts}


@pytest.mark.slow
def test_strong_attacks_are_held_against_autoattacks(little, tmp_path, monkeypatch):
    pytest.importorskip("torchattacks", reason="make benchmark installs it")
    for name, value in {"IMAGES": 40, "STEPS": 5, "QUERIES": 20}.items():
        monkeypatch.setattr(strength, name, value)
    assert main([*TINY.split(), "--out", str(tmp_path), "--parts", "strength"]) == 0
    part = speed.load_measured(str(tmp_path), Store(tmp_path))["strength"]["cpu"]
    assert len(part["rows"]) == len(strength.ROWS)
    for row in part["rows"]:
        assert row["robust"] - row["theirs"] == row["gained"] - row["lost"]
        assert max(row["robust"], row["theirs"]) <= row["natural"] <= row["n"] == 32
    assert len(speed.against_autoattack(part)) == len(strength.ROWS)


@pytest.mark.slow
def test_every_row_has_its_rounds_and_what_follows_from_them(rows):
    for name in set(PARTS) - {"precision"}:
        for row in rows[name]:
            (seconds,) = row["seconds"]
            assert row["slowest"] == row["images_per_second"] == row["fastest"]
            assert row["images_per_second"] == pytest.approx(row["images"] / seconds, rel=1e-2)


@pytest.mark.slow
def test_attacks_have_every_contestant_and_agree(rows):
    names = ["textbook", "ours fp32", "ours bf16", "foolbox"]
    names += ["convolutions fp32", "convolutions bf16"]
    for work in ATTACKS:
        found = {row["name"]: row for row in rows["attacks"] if row["work"] == work}
        assert list(found) == names
        assert found["textbook"]["ratio"] == 1
        for name in ("ours fp32", "foolbox"):
            assert found[name]["gained"] == found[name]["lost"] == 0
        assert {row["n"] for row in rows["attacks"] if row["role"] != "bound"} == {16}


@pytest.mark.slow
def test_steps_of_textbook_and_engine_have_the_same_loss(rows):
    losses = [row["losses"][0] for row in rows["steps"] if row["role"] != "bound"]
    assert losses == pytest.approx([losses[0]] * 3, abs=0.05)


@pytest.mark.slow
def test_precision_is_measured_on_published_and_own_networks(rows):
    assert len(rows["precision"]) == 4 * len(ATTACKS) * 3
    assert {row["network"] for row in rows["precision"]} >= {"R<sub>pgd</sub>", "the benchmark's"}
    for row in rows["precision"]:
        assert row["robust"] <= row["n"] == 32
        assert row["name"] != "plain fp32" or row["gained"] == row["lost"] == 0


@pytest.mark.slow
def test_growth_has_its_curves(rows):
    found = {(row["what"], row["x"]) for row in rows["growth"]}
    assert {("images a batch", size) for size in (16, 32)} <= found
    assert {("layers", 20), ("steps of PGD", 3), ("networks side by side", 2)} <= found


@pytest.mark.slow
def test_a_part_says_where_it_is_from(folder):
    part = json.loads((folder / "cpu.json").read_text())["tricks"]
    assert part["settings"]["network"] == "resnet8"
    assert part["machine"]["gemm_gflops"]["fp32"] > 0
    assert {"device", "torch", "commit", "finished", "cpu_capability"} <= {*part["machine"]}


@pytest.mark.slow
def test_a_part_run_again_replaces_only_itself(folder):
    before = json.loads((folder / "cpu.json").read_text())
    assert main([*TINY.split(), "--out", str(folder), "--parts", "steps"]) == 0
    after = json.loads((folder / "cpu.json").read_text())
    assert {name for name in before if before[name] != after[name]} == {"steps", "seal"}


@pytest.mark.slow
def test_tables_and_sentences_say_what_was_measured(measured):
    attacks = speed.throughput(measured["attacks"]["cpu"])
    assert attacks.loc[("PGD-7", "textbook"), "× textbook"] == "1.00"
    assert attacks.loc[("FGSM", "foolbox"), "changed"] == "+0\xa0−0"
    assert len(speed.kept_accuracies(measured["precision"]["cpu"])) == 4 * len(ATTACKS)
    page = speed.shown(measured["attacks"], speed.throughput).data
    assert (
        "resnet8; glyphs10; batches of 16; rounds: 1; accuracies of 16 images." in page
        and "ours bf16" in page
    )
    told = speed.told(measured["attacks"], speed.standing, "PGD-7").data
    assert "× textbook" in told and "× foolbox" in told and "GFLOP/s" in told
    assert "of 256 attacked" in speed.told(measured["precision"], speed.changes_in_bf16).data
    assert "and" in speed.told(measured["growth"], speed.trend, "steps of PGD").data


@pytest.mark.slow
def test_figures_have_a_bar_for_everyone_and_a_curve_for_every_work(measured):
    (axis,) = speed.race(measured["attacks"]).axes
    bars = [label.get_text() for label in axis.get_yticklabels()]
    assert bars == ["foolbox", "ours bf16", "ours fp32", "textbook"]
    (axis,) = speed.growth(measured["growth"], "steps of PGD").axes
    assert [list(line.get_xdata()) for line in axis.lines] == [[1, 3]] * 2


@pytest.mark.slow
def test_missing_parts_are_named_with_the_command_that_measures_them(measured, tmp_path):
    assert speed.machines(measured).data.endswith("--data-dir DIR --parts strength pipeline`")
    nothing = speed.load_measured(str(tmp_path), Store(tmp_path))
    assert speed.machines(nothing).data.endswith(f"--parts {' '.join(speed.PARTS)}`")
    assert speed.shown(nothing["steps"], speed.throughput).data == "<p>Not measured yet.</p>"
    assert isinstance(speed.race(nothing["attacks"]), Figure)


@pytest.mark.slow
def test_an_altered_measurement_is_not_shown(folder, tmp_path, capsys):
    text = (folder / "cpu.json").read_text()
    (tmp_path / "cpu.json").write_text(text.replace('"rounds": 1', '"rounds": 9'))
    assert not speed.load_measured(str(tmp_path), Store(tmp_path / "results"))["attacks"]
    assert "its content was altered" in capsys.readouterr().out


def test_difference_is_that_of_the_paired_outcomes():
    gaps = torch.tensor([1.0] * 3 + [-1.0] * 5 + [0.0] * 92)
    mean, low, high = speed.difference({"n": 100, "gained": 3, "lost": 5})
    assert mean == pytest.approx(gaps.mean().item())
    assert high - low == pytest.approx(2 * 1.96 * gaps.std().item() / math.sqrt(100))


def test_textbook_is_our_attack(model, batch):
    for attack in ATTACKS.values():
        ours = attack(model.eval(), *batch)
        for how in ({}, {"weight_gradients": True}):
            theirs = attack_batch(model, *batch, attack, **how)
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_folding_batch_norm_keeps_the_logits(model, batch):
    images, _ = batch
    for _ in range(3):
        model(images)  # statistics other than the initial ones
    before = model.eval()(images)
    assert torch.allclose(fold_batch_norm(model)(images), before, atol=1e-4)


def test_convolutions_are_counted():
    bare = Convolutions(build("resnet56", 10, 0), torch.rand(1, 3, 32, 32), torch.float32)
    assert bare.forward_gflop == pytest.approx(0.251, abs=0.001)


def test_an_attack_that_leaves_the_ball_is_named(tmp_path):
    bench = Bench(Settings(**options(tmp_path)))
    images, _ = bench.batch(0)
    found = [(images + 0.1).clamp(0, 1)]
    with pytest.raises(RuntimeError, match=r"^loose left the ball by 0\.069: it ran"):
        judge(bench, "loose", ATTACKS["FGSM"], found, found)


def test_a_peer_runs_the_attack_it_is_given(model, batch):
    attack = ATTACKS["PGD-7"]
    assert torch.allclose(foolbox(model.eval(), attack)(*batch), attack(model, *batch), atol=1e-6)


def test_pipeline_times_the_library_and_passes_on_its_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "COMMANDS", {"no more than help": ("--help",)})
    (row,) = pipeline.pipeline(Bench(Settings(**options(tmp_path))))["rows"]
    assert row["name"] == "no more than help" and row["seconds"][0] > 0
    with pytest.raises(RuntimeError, match=r"^error: profile = 'huge': allowed"):
        pipeline.run("--profile", "huge")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rounds 0", "rounds = '0': Input should be greater than or equal to 1"),
        ("--rounds 5 --images 600", "images = '600': 5 rounds of 128 need 640 or more"),
        ("--parts speed", "parts.0 = 'speed': Input should be 'attacks', 'steps'"),
        ("--peers cleverhans", "peers.0 = 'cleverhans': Input should be 'foolbox'"),
        ("--network resnet57", "network = 'resnet57': Input should be 'resnet8'"),
        ("--device tpu", "device = 'tpu': Input should be 'auto', 'cpu' or 'cuda'"),
        ("--peers foolbox --device cpu", "data_dir = '': cifar10 needs the folder of its images"),
    ],
)
def test_bad_argument_is_named_in_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments.split(), "--out", str(tmp_path)]) == 1
    output = capsys.readouterr().err.strip()
    assert output.startswith(f"error: {message}") and "\n" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sides", "64"], "unrecognized arguments: --sides 64"),
        (["--data-dir"], "argument --data-dir: expected one argument"),
    ],
)
def test_an_option_that_sides_do_not_have_is_named_in_one_line(capsys, arguments, message):
    before = sides.WRITTEN.read_bytes()
    assert sides.main(arguments) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert sides.WRITTEN.read_bytes() == before


def test_sides_without_their_images_are_refused_before_anything_is_trained(monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    for known in (NETWORKS, PRETRAINED):
        monkeypatch.setitem(known, "efficientnet_lite0_64", None)  # forgotten after the test
    monkeypatch.setattr(sides.loop, "train", lambda *_, **__: pytest.fail("a training began"))
    with pytest.raises(FileNotFoundError, match=r"^data_dir = 'nowhere': no such folder$"):
        sides.at(64, "nowhere")


def options(folder) -> dict:
    words = TINY.replace("--", "").replace("-", "_").split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    return given | {"peers": ("foolbox",), "out": str(folder)}
