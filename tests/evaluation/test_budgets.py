"""Answers over budgets are those of the stored weights, kept per image, and summed up rightly."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from robust_transfer.attacks import PGD, ThreatModel, deepfool, fgsm, input_gradient
from robust_transfer.data.images import Images
from robust_transfer.data.registry import DATASETS, load
from robust_transfer.evaluation import budgets, packing
from robust_transfer.evaluation.budgets import EPSILONS, NATURAL, BudgetConfig, Budgets
from robust_transfer.files import sha256, write_atomically, write_sealed
from robust_transfer.networks.registry import build
from robust_transfer.records.store import RECORD, WEIGHTS, Store

CPU = torch.device("cpu")
TINY = {
    "dataset": "glyphs10",
    "test_size": 60,
    "epsilons": (0.02, 0.1),
    "steps": 2,
    "deepfool_images": 5,
}


@pytest.fixture(scope="module")
def sweep():
    """A tiny evaluation over budgets."""
    return BudgetConfig(**TINY)


@pytest.fixture(scope="module")
def measured(trained, family, sweep, tmp_path_factory):
    """Its results on a network that trained."""
    store = Store(tmp_path_factory.mktemp("measured"), published=trained.root)
    return sweep.get_or_measure(store, family["baseline"], "", CPU)


def labelled(count, columns):
    """Embedded test images with independent labels ``(N, columns)``."""
    drawn = load("glyphs10", "test", count)
    channels = drawn.pixels.float().mean((2, 3))[:, :columns]
    return Images.of(drawn.pixels, (channels > channels.median(0).values).float())


def test_every_condition_is_answered_by_the_network_itself(measured, trained, family, sweep):
    model = trained.model(family["baseline"])
    images, labels = next(load("glyphs10", "test", 60).batches(60))
    expected = {NATURAL: images}
    for epsilon in sweep.epsilons:
        budget = ThreatModel(epsilon=epsilon)
        pgd = PGD(threat_model=budget, steps=2, step_size=epsilon / 4)
        expected["fgsm", epsilon] = fgsm(budget)(model, images, labels)
        expected["pgd", epsilon] = pgd(model, images, labels)
    assert measured.outputs.keys() == expected.keys()
    assert np.array_equal(measured.labels, labels)
    for condition, seen in expected.items():
        answers = model(seen).argmax(1).numpy()
        assert np.array_equal(measured.predicted(*condition), answers), condition
        assert measured.outputs[condition].dtype == np.uint8
        assert measured.accuracy(*condition) == (answers == labels.numpy()).mean()
    assert len({output.tobytes() for output in measured.outputs.values()}) == 5
    for norm, sizes in measured.deepfool.items():
        found = deepfool(model, images[:5], labels[:5], norm).numpy()
        assert sizes.dtype == np.float32
        np.testing.assert_allclose(sizes, found, rtol=1e-3)


def test_batches_do_not_matter(trained, family, sweep, measured, monkeypatch):
    monkeypatch.setattr(budgets, "BATCH", {"cpu": 4})
    model = trained.model(family["baseline"]).train()
    outputs, distances, controls = budgets.measure(model, load("glyphs10", "test", 60), sweep)
    assert all(module.training for module in model.modules())
    for condition, output in outputs.items():
        assert np.array_equal(output, measured.outputs[condition])
    for norm in ("l2", "linf"):
        np.testing.assert_allclose(distances[norm], measured.deepfool[norm], rtol=1e-3)
    for epsilon, found in measured.controls.items():  # noise is drawn batch by batch
        assert controls[epsilon]["alignment"] == pytest.approx(found["alignment"], abs=1e-3)


def test_attacks_are_held_against_noise_and_the_turn_of_the_gradient(trained, family, measured):
    model = trained.model(family["baseline"])
    images, labels = next(load("glyphs10", "test", 60).batches(60))
    for epsilon, found in measured.controls.items():
        ball = ThreatModel(epsilon=epsilon)
        noisy = ball.start(images, torch.Generator().manual_seed(7))
        expected = (model(noisy).argmax(1) == labels).double().mean().item()
        assert found["noise"] == pytest.approx(expected, abs=0.1)
        here, there = (
            input_gradient(model, x, labels).flatten(1)
            for x in (images, fgsm(ball)(model, images, labels))
        )
        cosines = (here * there).sum(1) / (here.norm(dim=1) * there.norm(dim=1))
        assert found["alignment"] == pytest.approx(cosines.mean().item(), abs=1e-3)


def test_of_many_test_images_so_many_are_attacked_and_all_are_asked(store, trained, family, sweep):
    config, shared = family["baseline"], TINY | {"deepfool_images": 3}
    few = BudgetConfig(**shared | {"test_size": 200, "attacked_images": 10})
    made = few.get_or_measure(store, config, "", CPU)
    images, labels = next(load("glyphs10", "test", 200).batches(200))
    right = trained.model(config)(images).argmax(1) == labels
    assert made.standard == made.content["standard"] == pytest.approx(right.double().mean().item())
    assert made.accuracy() == right[:10].double().mean().item() != pytest.approx(made.standard)
    alone = BudgetConfig(**shared | {"test_size": 10}).get_or_measure(store, config, "", CPU)
    assert alone.standard == pytest.approx(made.accuracy())
    assert np.array_equal(made.labels, labels[:10]) and made.outputs.keys() == alone.outputs.keys()
    for condition, output in alone.outputs.items():
        assert np.array_equal(made.outputs[condition], output)
    assert {norm: len(sizes) for norm, sizes in made.deepfool.items()} == {"l2": 3, "linf": 3}
    assert made.content["n"] == 200 and few.find(store, config).content == made.content


def test_few_attacked_images_cost_few_passes():
    whole, some = BudgetConfig(test_size=1000), BudgetConfig(test_size=1000, attacked_images=100)
    assert some.passes - 0.33 == pytest.approx((whole.passes - 0.33) / 10)
    assert BudgetConfig(test_size=1000, attacked_images=1000).passes == whole.passes


def test_records_from_before_attacked_all_test_images():
    made = result([0, 1, 2, 3], natural=classes(0, 1, 2, 9))
    assert "standard" not in made.content and made.standard == 0.75


def part(first, **content):
    """What one network answered, made up: of four attacked images the first so many rightly."""
    found = classes(*[0, 1, 2, 3][:first], *[9] * (4 - first))
    outputs = {NATURAL: classes(0, 1, 2, 3), ("fgsm", 0.1): found, ("pgd", 0.1): found}
    sizes = {"l2": np.array([first], np.float32), "linf": np.array([0.5], np.float32)}
    return Budgets("glyphs10", classes(0, 1, 2, 3), outputs, sizes, {"seconds": 2.0} | content)


def test_what_networks_answered_to_their_own_images_is_put_together():
    said = [
        {"signs": {"zero": 0.1}, "controls": [{"epsilon": 0.1, "noise": n, "alignment": 0.5}]}
        for n in (0.2, 0.6)
    ]
    parts = part(3, **said[0], standard=0.5), part(1, **said[1], standard=0.9)
    both = budgets.pooled(parts, "glyphs20")
    assert both.dataset == "glyphs20" and both.labels.tolist() == [0, 1, 2, 3] * 2
    assert both.predicted("pgd", 0.1).tolist() == [0, 1, 2, 9, 0, 9, 9, 9]
    assert both.accuracy("pgd", 0.1) == 4 / 8 and both.accuracy() == 1
    assert both.deepfool["l2"].tolist() == [3, 1] and both.deepfool["linf"].tolist() == [0.5, 0.5]
    assert both.content["seconds"] == 4 and both.content["signs"] == {"zero": pytest.approx(0.1)}
    assert both.controls == {0.1: pytest.approx({"epsilon": 0.1, "noise": 0.4, "alignment": 0.5})}
    assert both.standard == pytest.approx(0.7)


def test_of_one_network_nothing_is_put_together():
    alone = part(2)
    assert budgets.pooled([alone], "glyphs20") is alone


def test_records_without_signs_and_controls_are_put_together_too():
    both = budgets.pooled([part(4), part(2)], "glyphs10")
    assert both.content["signs"] == {} and both.controls == {} and both.doubts == []
    assert both.standard == 1


def test_two_classes_and_independent_labels_keep_log_odds_too(sweep):
    harmless = sweep.model_copy(update={"deepfool_images": 0})
    two, many = (build("resnet8", classes, seed=1) for classes in (2, 3))
    drawn = load("glyphs10", "test", 60)
    halves = Images.of(drawn.pixels, drawn.labels % 2)
    logits = two.eval()(next(halves.batches(60))[0]).detach()
    outputs, distances, _ = budgets.measure(two, halves, harmless)
    expected = (logits[:, 1] - logits[:, 0]).half().numpy()
    assert distances == {} and outputs[NATURAL].dtype == np.float16
    assert np.array_equal(outputs[NATURAL], expected)
    result = Budgets("glyphs10", halves.labels.byte().numpy(), outputs, {}, {})
    assert np.array_equal(result.predicted(), logits.argmax(1))
    assert result.predicted().dtype == np.uint8
    outputs, _, controls = budgets.measure(many, labelled(60, 3), harmless)
    logits = many.eval()(next(drawn.batches(60))[0]).detach()
    assert outputs.keys() == {NATURAL, *harmless.attacks}
    assert np.array_equal(outputs[NATURAL], logits.half().numpy())
    assert not np.array_equal(outputs["pgd", 0.1], outputs[NATURAL])
    assert controls.keys() == {0.02, 0.1} and 0 < controls[0.1]["noise"] < 1


def result(labels, **outputs):
    """Measurements made up: of natural images, and of FGSM images at 0.1."""
    conditions = {"natural": NATURAL, "fgsm": ("fgsm", 0.1)}
    named = {conditions[name]: np.asarray(output) for name, output in outputs.items()}
    return Budgets("glyphs10", np.asarray(labels, np.uint8), named, {}, {})


def classes(*values):
    return np.array(values, np.uint8)


def test_more_than_256_classes_are_told_apart():
    logits, true = torch.zeros(2, 300), torch.tensor([0, 3])
    logits[0, 256] = logits[1, 3] = 1
    answers, labels = (
        packing.unpack_array(packing.pack_array(found.numpy()))
        for found in (budgets.kept(logits, true), budgets.small(true, 300))
    )
    made = Budgets("glyphs10", labels, {NATURAL: answers}, {}, {})
    assert made.predicted().tolist() == [256, 3] and made.accuracy() == 0.5


def test_accuracies_of_classes_are_summed_up():
    made = result(
        [0, 0, 0, 0, 1, 1, 2, 2],
        natural=classes(0, 0, 0, 1, 1, 1, 2, 0),
        fgsm=classes(0, 1, 1, 1, 1, 1, 9, 9),
    )
    assert made.accuracy() == 6 / 8 and made.accuracy("fgsm", 0.1) == 3 / 8
    assert made.balanced_accuracy() == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert made.balanced_accuracy("fgsm", 0.1) == pytest.approx((1 / 4 + 1 + 0) / 3)
    table = made.confusion("fgsm", 0.1)
    names = DATASETS["glyphs10"].class_names
    assert list(table.index) == list(table.columns) == names
    assert (table.index.name, table.columns.name) == ("true", "predicted")
    expected = pd.DataFrame(0, names, names)
    # one image of class 0 and one of class 2 were wrong before, and are no work of the attack
    for true, found, count in [(0, 0, 1), (0, 1, 2), (1, 1, 2), (2, 9, 1)]:
        expected.iloc[true, found] = count
    assert (table.to_numpy() == expected.to_numpy()).all()
    assert np.trace(made.confusion().to_numpy()) == 6 and made.confusion().to_numpy().sum() == 8


def test_the_interval_is_wilsons():
    made = result([1] * 413 + [0] * 587, natural=np.ones(1000, np.uint8))
    share, count, z = 0.413, 1000, 1.959963984540054
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z / (1 + z**2 / count) * spread
    assert made.interval() == pytest.approx((middle - half, middle + half), abs=1e-12)


def by_pairs(scores, labels):
    """Area under the ROC curve as its definition: pairs in the right order, ties half."""
    above = scores[labels == 1][:, None] - scores[labels == 0][None]
    return ((above > 0) + 0.5 * (above == 0)).mean()


@pytest.mark.parametrize("ties", [1, 10, 1000])
def test_the_area_under_the_curve_counts_pairs_and_half_of_ties(ties):
    generator = np.random.default_rng(ties)
    labels = generator.integers(0, 2, 400)
    scores = (np.round(ties * (generator.normal(size=400) + labels)) / ties).astype(np.float16)
    made = result(labels, natural=scores, fgsm=np.zeros(400, np.float16))
    assert made.auroc() == pytest.approx(by_pairs(scores.astype(float), labels), abs=1e-12)
    assert made.auroc("fgsm", 0.1) == 0.5
    assert made.scores().dtype == np.float64 and np.array_equal(made.scores(), scores)
    with pytest.raises(ValueError, match=r"^attack = pgd 0.1: measured are natural 0, fgsm 0.1$"):
        made.auroc("pgd", 0.1)


def test_independent_labels_are_summed_up_one_by_one():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[2, -1, -3], [1, 2, 1], [3, -1, -2], [-1, -2, -1]], np.float16)
    made = result(labels, natural=scores)
    assert made.predicted().tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert made.accuracy() == 9 / 12
    assert made.balanced_accuracy() == pytest.approx((3 / 4 + 3 / 4 + 3 / 4) / 3)
    assert made.auroc() == pytest.approx((1 + 3.5 / 4) / 2)
    assert made.interval() == pytest.approx(
        result([1, 1, 1, 0], natural=classes(1, 1, 1, 1)).interval()
    )
    with pytest.raises(ValueError, match=r"^dataset = 'glyphs10': a confusion matrix needs one"):
        made.confusion()
    assert math.isnan(result(0 * labels, natural=scores).auroc())


def test_more_than_two_classes_have_no_scores():
    made = result([0, 1, 2], natural=classes(0, 1, 2))
    for ask in (made.scores, made.auroc):
        with pytest.raises(ValueError, match=r"^dataset = 'glyphs10': scores need two classes or"):
            ask()


def test_measurements_are_stored_and_found_again(store, family, sweep):
    config = family["baseline"]
    assert sweep.find(store, config) is None
    made = sweep.get_or_measure(store, config, "", CPU)
    (path,) = store.folder(config).glob("budgets-*.json")
    before = path.stat().st_mtime_ns
    again = sweep.get_or_measure(store, config, "", CPU)
    assert path.name == f"budgets-{sweep.hash}.json" and path.stat().st_mtime_ns == before
    assert again.content == made.content and again.dataset == "glyphs10"
    assert again.outputs.keys() == made.outputs.keys()
    for condition, output in made.outputs.items():
        assert np.array_equal(again.outputs[condition], output)
    assert list(made.content) == [
        *("config", "network", "weights", "n", "labels", "outputs", "deepfool", "controls"),
        *("standard", "signs", "data", "seconds", "doubts", "provenance"),
    ]
    assert made.content["data"] == load("glyphs10", "test", 60).fingerprint
    assert made.content["provenance"].keys() >= {"device", "torch", "commit", "finished"}
    assert sweep.model_copy(update={"steps": 3}).find(store, config) is None
    layered = Store(store.root / "mine", published=store.root)
    assert sweep.find(layered, config).content == made.content


def test_measurements_stand_only_for_the_weights_they_were_made_of(store, family, sweep):
    config = family["baseline"]
    sweep.get_or_measure(store, config, "", CPU)
    path = store.folder(config) / RECORD
    content = store.read_sealed(path)
    weights = store.folder(config) / WEIGHTS
    write_atomically(weights, (store.folder(family["source"]) / WEIGHTS).read_bytes())
    content["sha256"][WEIGHTS] = sha256(weights)
    write_sealed(path, content)
    assert store.find(config) is not None and sweep.find(store, config) is None


def test_altered_measurements_are_named_and_set_aside(store, family, sweep, capsys):
    sweep.get_or_measure(store, family["baseline"], "", CPU)
    (path,) = store.folder(family["baseline"]).glob("budgets-*.json")
    path.write_text(path.read_text().replace('"n": 60', '"n": 59'))
    assert sweep.find(store, family["baseline"]) is None
    assert f"set aside {path}" in capsys.readouterr().out


def test_what_cannot_be_measured_is_named_before_any_work(trained, family, tiny, monkeypatch):
    def ask(network, **changes):
        BudgetConfig(**TINY | changes).get_or_measure(trained, network, "", CPU)

    monkeypatch.setattr(budgets, "measure", lambda *args: pytest.fail("work began"))
    with pytest.raises(FileNotFoundError, match="no finished record of unknown"):
        ask(tiny(name="unknown"))
    with pytest.raises(
        ValueError, match=r"^dataset = 'glyphs10': source was trained on 'glyphs20'"
    ):
        ask(family["source"])
    with pytest.raises(ValueError, match=r"^image_size = 24: pgd was trained on 0$"):
        ask(family["baseline"], image_size=24)
    with pytest.raises(
        ValueError, match="deepfool_images = 4: allowed is 0, chestxray14 has indep"
    ):
        BudgetConfig(dataset="chestxray14", deepfool_images=4)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.uint8),
        np.linspace(-9, 9, 6, dtype=np.float16).reshape(2, 3),
        np.array([0, 0.5, math.inf], np.float32),
        np.zeros((0, 4), np.float16),
    ],
)
def test_packed_arrays_come_back(array):
    again = packing.unpack_array(packing.pack_array(array))
    assert again.dtype == array.dtype and np.array_equal(again, array)


def test_the_default_budgets_are_the_customary_ones_and_the_papers():
    assert BudgetConfig().epsilons == EPSILONS == tuple(sorted(EPSILONS))
    assert {0.01, 0.03, 0.05, 0.07, 0.09} | {k / 255 for k in (1, 2, 4, 8)} == set(EPSILONS)
    attacks = BudgetConfig().attacks
    assert attacks.keys() == {(name, e) for name in ("fgsm", "pgd") for e in EPSILONS}
    budget = ThreatModel(epsilon=0.05)
    assert attacks["fgsm", 0.05] == fgsm(budget)
    assert attacks["pgd", 0.05] == PGD(threat_model=budget, steps=10, step_size=0.0125)


def test_every_field_changes_the_hash_and_order_does_not(sweep):
    changes = {
        "dataset": "glyphs20",
        "image_size": 24,
        "test_size": 61,
        "attacked_images": 50,
        "epsilons": (0.02,),
        "steps": 9,
        "step_ratio": 0.1,
        "deepfool_images": 0,
    }
    assert changes.keys() == BudgetConfig.model_fields.keys()
    hashes = {BudgetConfig(**TINY | {name: value}).hash for name, value in changes.items()}
    assert len(hashes | {sweep.hash}) == 1 + len(changes)
    assert BudgetConfig(**TINY | {"epsilons": (0.1, 0.02, 0.1)}) == sweep
    assert BudgetConfig(**sweep.model_dump(mode="json")).hash == sweep.hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "mnist"}, "dataset = 'mnist': "),
        ({"epsilons": ()}, r"epsilons = \(\): "),
        ({"epsilons": (0.1, 2)}, "epsilons.1 = 2: "),
        ({"steps": 0}, "steps = 0: "),
        ({"step_ratio": 0}, "step_ratio = 0: "),
        ({"deepfool_images": 61}, "deepfool_images = 61: allowed is 0 to test_size, 60"),
        ({"attacked_images": 61}, "attacked_images = 61: allowed is 0 to test_size, 60"),
        ({"attacked_images": 4}, "deepfool_images = 5: allowed is 0 to attacked_images, 4"),
        ({"attacked_images": -1}, "attacked_images = -1: "),
        ({"epsilon": 0.1}, "unknown parameter epsilon; known: attacked_images, dataset"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        BudgetConfig(**TINY | fields)
    assert "\n" not in str(caught.value)
