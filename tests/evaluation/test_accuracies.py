"""Accuracies are those of the stored weights, kept per image, and doubt themselves."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch

from robust_transfer.attacks import PGD, ThreatModel, fgsm
from robust_transfer.data.images import Images
from robust_transfer.data.registry import load
from robust_transfer.evaluation import accuracies, measurement, packing, single_image
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation, EvaluationConfig
from robust_transfer.files import sha256, write_atomically, write_sealed
from robust_transfer.records.store import RECORD, WEIGHTS, Store

CPU = torch.device("cpu")


def reweigh(store, config):
    """Give a finished network other weights, as if it had been trained on another machine."""
    folder = store.folder(config)
    state = safetensors.torch.load_file(folder / WEIGHTS)
    state["head.weight"] = -state["head.weight"]
    write_atomically(folder / WEIGHTS, safetensors.torch.save(state))
    content = store.read_sealed(folder / RECORD)
    content["sha256"][WEIGHTS] = sha256(folder / WEIGHTS)
    write_sealed(folder / RECORD, content)


def hits(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).numpy()


def test_outcomes_say_per_image_and_attack_what_the_network_got_right(trained, family, how):
    model, surrogate = (trained.model(family[name]) for name in ("baseline", "surrogate"))
    images = load("glyphs10", "test", 300)
    pixels, labels = next(images.batches(300))
    ready = {name: attack(surrogate, pixels, labels) for name, attack in how.attacks.items()}
    measured = accuracies.outcomes(model.train(), images, how.attacks, ready)
    assert all(module.training for module in model.modules())
    model.eval()
    expected = {"natural": hits(model, pixels, labels)}
    for name, attack in how.attacks.items():
        expected[f"bb_{name}"] = hits(model, ready[name], labels)
        expected[f"wb_{name}"] = hits(model, attack(model, pixels, labels), labels)
    assert measured.keys() == expected.keys() == set(COLUMNS)
    for column in COLUMNS:
        assert measured[column].dtype == bool and measured[column].shape == (300,)
        assert np.array_equal(measured[column], expected[column]), column
    assert len({column.tobytes() for column in measured.values()}) > 3


def test_what_a_folded_network_is_fooled_by_is_shown_to_the_network_itself(
    trained, family, how, monkeypatch
):
    model, other = (trained.model(family[name]) for name in ("baseline", "source"))
    images = load("glyphs10", "test", 300)
    pixels, labels = next(images.batches(300))
    plain = accuracies.outcomes(model, images, how.attacks, {})
    monkeypatch.setattr(accuracies, "folded", lambda network: other if network is model else None)
    measured = accuracies.outcomes(model, images, how.attacks, {})
    for name, attack in how.attacks.items():
        expected = hits(model, attack(other, pixels, labels), labels)
        assert np.array_equal(measured[f"wb_{name}"], expected)
        assert not np.array_equal(measured[f"wb_{name}"], plain[f"wb_{name}"])


def test_black_box_examples_are_made_on_the_surrogate(store, family, how):
    made = how.prepare(store, "", CPU)
    images = load("glyphs10", "test", how.test_size)
    pixels, labels = next(images.batches(how.test_size))
    surrogate = store.model(family["surrogate"])
    assert made.keys() == {"fgsm", "pgd"}
    for name, attack in how.attacks.items():
        assert torch.equal(made[name], attack(surrogate, pixels, labels))
    files = list(store.folder(family["surrogate"]).glob("examples-*"))
    before = [file.stat().st_mtime_ns for file in files]
    how.prepare(store, "", CPU)
    assert len(files) == 2 and [file.stat().st_mtime_ns for file in files] == before


def test_the_attacks_are_fgsm_and_pgd_without_random_start_on_true_labels(how):
    assert EvaluationConfig(surrogate=how.surrogate).attacks == {"fgsm": fgsm(), "pgd": PGD()}
    budget = ThreatModel(epsilon=0.1)
    changed = how.model_copy(update={"threat_model": budget, "steps": 5, "step_size": 0.03})
    assert changed.attacks == {
        "fgsm": fgsm(budget),
        "pgd": PGD(threat_model=budget, steps=5, step_size=0.03),
    }


def test_an_evaluation_is_stored_and_found_again(store, family, how):
    config = family["baseline"]
    assert how.find(store, config) is None
    made = how.get_or_measure(store, config, "", CPU)
    files = list(store.folder(config).glob("evaluation-*.json"))
    before = [file.stat().st_mtime_ns for file in files]
    again = how.get_or_measure(store, config, "", CPU)
    assert len(files) == 1 and [file.stat().st_mtime_ns for file in files] == before
    for column in COLUMNS:
        assert np.array_equal(again.outcomes[column], made.outcomes[column])
        assert again.accuracy(column) == made.content["accuracies"][column]
        assert len(again.outcomes[column]) == how.test_size == again.content["n"]
    assert again.content == made.content
    assert list(made.content) == [
        *("config", "network", "weights", "surrogate", "n", "accuracies", "outcomes", "signs"),
        *("data", "seconds", "doubts", "provenance"),
    ]
    assert made.content["data"] == load("glyphs10", "test", how.test_size).fingerprint
    assert made.content["provenance"].keys() >= {"device", "torch", "commit", "finished"}
    assert not [path for path in store.root.rglob(".*") if path.name != ".lock"]


def test_a_changed_evaluation_is_another_one(store, family, how):
    how.get_or_measure(store, family["baseline"], "", CPU)
    for change in ({"steps": 3}, {"test_size": 50}, {"step_size": 0.001}):
        other = how.model_copy(update=change)
        assert other.find(store, family["baseline"]) is None


def test_an_evaluation_stands_only_for_the_weights_it_was_made_of(store, family, how):
    config = family["baseline"]
    first = how.get_or_measure(store, config, "", CPU)
    reweigh(store, config)
    assert how.find(store, config) is None
    second = how.get_or_measure(store, config, "", CPU)
    assert not np.array_equal(first.outcomes["natural"], second.outcomes["natural"])
    assert how.find(store, config).content == second.content


def test_an_altered_evaluation_is_named_and_made_anew(store, family, how, capsys):
    config = family["baseline"]
    made = how.get_or_measure(store, config, "", CPU)
    (path,) = store.folder(config).glob("evaluation-*.json")
    path.write_text(path.read_text().replace('"n": 60', '"n": 59'))
    assert how.find(store, config) is None
    assert f"set aside {path}" in capsys.readouterr().out
    again = how.get_or_measure(store, config, "", CPU)
    assert again.content["outcomes"] == made.content["outcomes"]


def test_published_evaluations_are_found_and_new_ones_written_beside_ones_own(
    store, family, how, tmp_path
):
    how.get_or_measure(store, family["baseline"], "", CPU)
    layered = Store(tmp_path / "mine", published=store.root)
    assert how.find(layered, family["baseline"]) is not None
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    how.get_or_measure(layered, family["transfer"], "", CPU)
    assert list(layered.folder(family["transfer"]).glob("evaluation-*.json"))
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_an_unfinished_network_is_refused_by_name(store, tiny, how):
    with pytest.raises(FileNotFoundError, match="no finished record of unknown"):
        how.get_or_measure(store, tiny(name="unknown"), "", CPU)


def test_a_network_of_other_images_than_the_surrogates_is_refused(store, family, how):
    with pytest.raises(
        ValueError, match=r"^dataset = 'glyphs10': source was trained on 'glyphs20'"
    ):
        how.get_or_measure(store, family["source"], "", CPU)


def test_a_surrogate_that_was_transferred_is_refused(family):
    with pytest.raises(ValueError, match="surrogate = transfer: allowed is one from scratch"):
        EvaluationConfig(surrogate=family["transfer"])


def test_answers_are_the_likeliest_labels_and_their_probabilities(trained, family, batch):
    model = trained.model(family["baseline"])
    labels, probabilities = single_image.answers(model.train(), batch[0])
    expected = model.eval()(batch[0]).softmax(1)
    assert torch.equal(labels, expected.argmax(1))
    torch.testing.assert_close(probabilities, expected.detach().amax(1))


def test_a_sweep_is_a_table_of_strengths_and_networks(trained, family):
    models = {name: trained.model(family[name]) for name in ("baseline", "surrogate")}
    images = load("glyphs10", "test", 200)
    attacks = {e: fgsm(ThreatModel(epsilon=e)) for e in (0.0, 0.02, 0.1)}
    table = accuracies.sweep(models, images, attacks)
    assert table.index.tolist() == [0.0, 0.02, 0.1] and table.columns.tolist() == list(models)
    pixels, labels = next(images.batches(200))
    for name, model in models.items():
        for epsilon, attack in attacks.items():
            share = hits(model, attack(model, pixels, labels), labels).mean()
            assert table.loc[epsilon, name] == pytest.approx(share)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 250])
def test_packed_outcomes_come_back(count):
    measured = np.random.default_rng(count).random(count) < 0.5
    packed = packing.pack_bits(measured)
    assert np.array_equal(packing.unpack_bits(packed, count), measured)
    assert len(packed) <= 4 * math.ceil(math.ceil(count / 8) / 3)


def with_accuracies(**percent):
    """An evaluation of 1000 images with these accuracies."""
    outcomes = {c: np.arange(1000) < 10 * percent.get(c, 50) for c in COLUMNS}
    return Evaluation(outcomes, {})


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (413, 1000), (9250, 10_000)])
def test_the_interval_is_wilsons(right, count):
    outcome = Evaluation({"natural": np.arange(count) < right}, {})
    share, z = right / count, 1.959963984540054
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z / (1 + z**2 / count) * spread
    assert outcome.accuracy("natural") == share
    assert outcome.interval("natural") == pytest.approx((middle - half, middle + half), abs=1e-12)


SOUND = {"natural": 84, "bb_fgsm": 81, "bb_pgd": 82, "wb_fgsm": 45, "wb_pgd": 36}
DOUBTS = {
    "sound": ({}, []),
    "within the margin": ({"wb_fgsm": 82, "wb_pgd": 36}, []),
    "label leaking": (
        {"wb_fgsm": 88},
        ["white-box FGSM is weaker than black-box FGSM by 7.0", "classified better than clean"],
    ),
    "masked FGSM": (
        {"bb_fgsm": 40},
        ["white-box FGSM is weaker than black-box FGSM by 5.0 points"],
    ),
    "masked PGD": ({"bb_pgd": 30}, ["white-box PGD is weaker than black-box PGD by 6.0 points"]),
    "weak PGD": ({"wb_pgd": 48}, ["white-box PGD is weaker than FGSM by 3.0 points"]),
}


@pytest.mark.parametrize(("changes", "raised"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubts_are_raised_where_gradients_may_be_masked(changes, raised):
    found = with_accuracies(**SOUND | changes).doubts
    assert len(found) == len(raised)
    for sentence, part in zip(found, raised, strict=True):
        assert part in sentence


def test_every_field_of_an_evaluation_changes_its_hash(how, tiny):
    changes = {
        "surrogate": tiny(name="another"),
        "test_size": 61,
        "threat_model": ThreatModel(epsilon=0.1),
        "steps": 9,
        "step_size": 0.1,
    }
    assert changes.keys() == EvaluationConfig.model_fields.keys()
    hashes = {how.model_copy(update={name: value}).hash for name, value in changes.items()}
    assert len(hashes | {how.hash}) == 6
    assert EvaluationConfig(**how.model_dump(mode="json")).hash == how.hash


def test_black_box_examples_follow_the_surrogates_weights(store, family, how):
    first = how.prepare(store, "", CPU)
    reweigh(store, family["surrogate"])
    assert not torch.equal(how.prepare(store, "", CPU)["pgd"], first["pgd"])


def test_black_box_examples_follow_the_test_images(store, family, how, monkeypatch):
    first = how.prepare(store, "", CPU)["pgd"]
    images = accuracies.test_images(how, "")
    turned = images.take(torch.arange(len(images)).flip(0))
    monkeypatch.setattr(accuracies, "test_images", lambda config, data_dir: turned)
    again = how.prepare(store, "", CPU)["pgd"]
    torch.testing.assert_close(again, first.flip(0), atol=0.07, rtol=0)  # ε and rounding
    assert not torch.equal(again, first)


def test_evaluations_of_other_images_are_not_set_side_by_side_nor_returned(how):
    here = load("glyphs10", "test", how.test_size).fingerprint
    one, other = (Evaluation({}, {"data": digest}) for digest in (here, "b" * 64))
    measurement.same_images(how, [one, one], "")
    for found in ([one, other], [other, other]):  # the latter are not of the images at hand
        with pytest.raises(ValueError, match=r"different test images, with fingerprints .*, bbb"):
            measurement.same_images(how, found, "")


def test_independent_labels_are_refused_where_an_image_is_right_or_wrong(how, model):
    images = load("glyphs10", "test", 20)
    many = Images.of(images.pixels, torch.zeros(20, 10))
    with pytest.raises(ValueError, match=r"labels have shape \(20, 10\): allowed is \(N,\)"):
        accuracies.outcomes(model, many, how.attacks, {})


@pytest.mark.parametrize("keep", [-100, 0], ids=["truncated", "empty"])
def test_damaged_black_box_examples_are_made_anew(store, family, how, keep):
    made = how.prepare(store, "", CPU)
    first = {name: images.clone() for name, images in made.items()}
    (path,) = store.folder(family["surrogate"]).glob("examples-*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    torch.testing.assert_close(how.prepare(store, "", CPU), first, rtol=0, atol=0)


def test_an_evaluation_follows_the_surrogates_weights(store, family, how):
    how.get_or_measure(store, family["baseline"], "", CPU)
    reweigh(store, family["surrogate"])
    assert how.find(store, family["baseline"]) is None
