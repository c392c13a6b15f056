"""The table of networks is the paper's, and the default profile is its protocol to the letter."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from robust_transfer.attacks import PGD, ThreatModel, fgsm
from robust_transfer.davchev2019 import tables
from robust_transfer.davchev2019.experiment import (
    DEFENCES,
    HEADLINE,
    Profile,
    again,
    budgets,
    evaluation,
    grid,
    inner_attack,
    measurements,
    profile_path,
    read_profile,
    rows,
    select,
    strong,
)

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))


@pytest.fixture(scope="module")
def table():
    return {network.id: network for network in grid(Profile())}


def test_the_rows_are_those_of_table_1_in_its_order():
    with (ROOT / "book" / "reference" / "davchev2019_table1.csv").open() as file:
        printed = [
            f"{row['network']} {row['unfrozen_layers']}".strip() for row in csv.DictReader(file)
        ]
    assert len(printed) == 25
    assert [network.paper_key for network in rows(grid(Profile()))] == printed


def test_there_are_three_sources_and_a_surrogate_beside_the_25_rows(table):
    roles = [network.role for network in table.values()]
    counts = {role: roles.count(role) for role in roles}
    assert counts == {"source": 3, "surrogate": 1, "baseline": 4, "transfer": 21}
    assert list(table)[:4] == ["cifar100-nat", "cifar100-fgsm", "cifar100-pgd", "surrogate"]
    assert len({network.config.hash for network in table.values()}) == 29


def test_every_network_is_trained_on_its_data_from_its_source(table):
    for network in table.values():
        config = network.config
        assert config.name == network.id
        assert config.dataset == ("cifar100" if network.role == "source" else "cifar10")
        assert config.network == ("densenet121" if network.role == "surrogate" else "resnet56")
        assert config.batch_size == (100 if network.role == "surrogate" else 128)
        assert config.strategy == network.strategy
        if network.role == "transfer":
            assert network.id == f"{network.source}-{network.target}-{network.strategy}"
            assert config.source == table[f"cifar100-{network.source}"].config
        else:
            assert config.source is None and network.source is None


def test_networks_train_as_long_and_with_the_weight_decay_of_the_protocol(table):
    for network in table.values():
        config = network.config
        if network.role == "transfer":
            recipe = (50, (21, 41), 5e-5)
        else:
            recipe = (200, (101, 151), 5e-5 if network.target == "nat" else 1e-5)
        assert (config.epochs, config.decay_epochs, config.weight_decay) == recipe, network.id
        assert (config.learning_rate, config.momentum, config.seed) == (0.1, 0.9, 0)
        assert (config.train_size, config.validation_size) == (47_500, 2_500)
        assert (config.halves, config.frozen_batch_norm) == ("separate", "adapt")
        assert (config.selection, config.precision) == ("mean", "fp32")
        assert config.schedule == "step"


INNER = {
    "nat": None,
    "fgsm": fgsm(ThreatModel(epsilon=8 / 256), "predicted"),
    "fgsm_no_ll": fgsm(ThreatModel(epsilon=8 / 256), "true"),
    "pgd": PGD(threat_model=ThreatModel(epsilon=8 / 256), steps=7, step_size=2 / 256),
}


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_defence_trains_against_its_attack(table, defence):
    attacked = [n.config.attack for n in table.values() if n.target == defence]
    assert attacked and all(attack == INNER[defence] for attack in attacked)


@pytest.mark.parametrize("epsilon", [8 / 256, 0.1])
def test_pgd_steps_are_a_quarter_of_epsilon(epsilon):
    profile = Profile(epsilon=epsilon)
    assert inner_attack(profile, "pgd").step_size == pytest.approx(epsilon / 4)
    assert evaluation(profile).step_size == pytest.approx(epsilon / 4)
    for attack in (inner_attack(profile, d) for d in DEFENCES[1:]):
        assert attack.threat_model.epsilon == epsilon
    assert inner_attack(profile, "fgsm").step_size == epsilon


def test_the_rows_are_evaluated_as_in_the_paper(table):
    how = evaluation(Profile())
    assert how.surrogate == table["surrogate"].config
    assert how.test_size == 10_000
    assert how.attacks == {"fgsm": INNER["fgsm_no_ll"], "pgd": INNER["pgd"]}


@pytest.mark.parametrize(
    ("network", "key", "label"),
    [
        ("fgsm_no_ll", "R_fgsm_no_ll", "R<sub>fgsm_no_ll</sub>"),
        ("pgd-nat-stage3", "R_pgd->nat 18", "R<sub>pgd→nat</sub> 18"),
        ("fgsm-fgsm-head", "R_fgsm->fgsm 1", "R<sub>fgsm→fgsm</sub> 1"),
        ("nat-pgd-all", "R_nat->pgd 56", "R<sub>nat→pgd</sub> 56"),
    ],
)
def test_networks_are_labelled_as_the_paper_writes_them(table, network, key, label):
    assert table[network].paper_key == key
    assert table[network].label == label


def test_the_paper_profile_is_the_default_but_for_more_seeds_and_departs_from_nothing():
    profile = read_profile(ROOT / "notebooks" / "profiles" / "paper.yaml")
    assert grid(profile) == grid(Profile()) and evaluation(profile) == evaluation(Profile())
    assert tables.departures(profile).empty


def test_sources_alone_are_trained_longer_with_decays_in_proportion():
    profile = Profile(epochs=8, decay_epochs=(5, 7), source_factor=3)
    for network in grid(profile):
        if network.role != "transfer":
            trained = network.config.epochs, network.config.decay_epochs
            assert trained == ((24, (15, 21)) if network.role == "source" else (8, (5, 7)))


@pytest.mark.parametrize("path", PROFILES, ids=[path.stem for path in PROFILES])
def test_every_profile_makes_a_whole_grid(path):
    profile = read_profile(path)
    assert profile.profile == path.stem
    assert len(rows(grid(profile))) == 25
    assert evaluation(profile).surrogate.network == profile.surrogate


def test_further_seeds_train_the_rows_behind_the_headline_and_their_sources_again():
    profile = Profile(seed=3, further_seeds=(4, 5))
    first = {network.id: network for network in grid(profile)}
    networks = again(profile)
    ids = ["cifar100-nat", "cifar100-pgd", *HEADLINE]
    assert [network.id for network in networks] == 2 * ids
    assert [network.config.seed for network in networks] == 7 * [4] + 7 * [5]
    for network in networks:
        assert network.further and network.label.endswith(f", seed {network.config.seed}")
        config = network.config
        same = first[network.id].config
        assert config.hash != same.hash and config.attack == same.attack
        assert config.source is None or config.source.seed == config.seed
    assert evaluation(profile).surrogate.seed == 3  # one adversary for all
    assert again(Profile()) == []
    with pytest.raises(ValueError, match=r"further_seeds = \(4, 3\): allowed are different ones"):
        Profile(seed=3, further_seeds=(4, 3))


def test_departures_name_what_differs_from_the_paper():
    profile = Profile(profile="mine", epochs=30, random_start=True)
    found = tables.departures(profile)
    assert found.loc["epochs"].to_list() == ["30", "200"]
    assert found.loc["random_start"].to_list() == ["True", "False"] and len(found) == 2


FLIPPED = {
    "split_seed": 1,
    "random_start": True,
    "attack_mode": "train",
    "halves": "joint",
    "frozen_batch_norm": "freeze",
    "selection": "last",
    "precision": "bf16",
    "schedule": "one_cycle",
    "seed": 2,
    "training_steps": 3,
    "batch_size": 100,
}


@pytest.mark.parametrize(("field", "value"), FLIPPED.items())
def test_a_flipped_oddity_reaches_the_training(table, field, value):
    networks = {network.id: network.config for network in grid(Profile(**{field: value}))}
    transfer = networks["pgd-pgd-stage3"]
    seen = {
        "random_start": transfer.attack.random_start,
        "attack_mode": transfer.attack.mode,
        "training_steps": transfer.attack.steps,
    }
    assert seen.get(field, getattr(transfer, field, None)) == value
    assert transfer.hash != table["pgd-pgd-stage3"].config.hash


def test_every_adversarial_network_is_attacked_in_the_chosen_mode():
    attacks = [network.config.attack for network in grid(Profile(attack_mode="train"))]
    assert {attack.mode for attack in attacks if attack} == {"train"}


@pytest.mark.parametrize("change", [{"evaluation_steps": 20}, {"test_size": 100}])
def test_how_networks_are_evaluated_does_not_change_their_training(table, change):
    profile = Profile(**change)
    assert {n.id: n.config for n in grid(profile)} == {n.id: n.config for n in table.values()}
    assert evaluation(profile).hash != evaluation(Profile()).hash


def test_an_unknown_parameter_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "mine.yaml").write_text("profile: mine\nepoch: 3\n")
    with pytest.raises(ValueError, match=r"unknown parameter epoch; known: ") as caught:
        read_profile(tmp_path / "mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in Profile.model_fields)


@pytest.mark.parametrize("name", ["network", "surrogate", "source_dataset", "target_dataset"])
def test_an_unknown_network_or_data_set_is_named_once_by_the_profiles_own_name(name):
    with pytest.raises(ValueError, match=rf"^{name} = 'lenet': allowed are .*\w$") as caught:
        Profile(**{name: "lenet"})
    assert str(caught.value).count("lenet") == 1


def test_what_a_profile_leaves_out_is_the_papers_but_never_its_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("profile: mine\nepochs: 3\n")
    assert read_profile(path) == Profile(profile="mine", epochs=3)
    path.write_text(json.dumps(Profile().model_dump(mode="json")))
    assert read_profile(path) == Profile()
    path.write_text("epochs: 3\n")  # its numbers would be shown as the paper profile's
    with pytest.raises(
        ValueError, match=r"mine\.yaml: a profile gives its name; profile is missing"
    ):
        read_profile(path)


@pytest.mark.parametrize("path", PROFILES, ids=[path.stem for path in PROFILES])
def test_a_profiles_file_gives_its_name_and_what_it_changes(path):
    said, paper = read_profile(path), Profile()
    changed = {name for name in Profile.model_fields if getattr(said, name) != getattr(paper, name)}
    assert yaml.safe_load(path.read_text()).keys() == {"profile"} | changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"mine\.yaml: not YAML: .*line 1"),
        ("- epochs", r"mine\.yaml: a list; allowed are"),
    ],
)
def test_a_file_that_is_no_profile_is_named_in_one_line(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_profile(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "selected"),
    [(["pgd-pgd-all", "nat"], ["nat", "pgd-pgd-all"]), (["surrogate"], ["surrogate"])],
)
def test_networks_are_selected_by_id_in_the_order_of_the_table(table, ids, selected):
    everything = list(table.values())
    assert [network.id for network in select(everything, ids)] == selected
    assert select(everything, []) == everything
    with pytest.raises(ValueError, match=r"^networks = 'pgd-all': allowed are cifar100-fgsm"):
        select(everything, [*ids, "pgd-all"])
    with pytest.raises(ValueError, match=r"^networks = 'pgd': allowed is a list"):
        select(everything, "pgd")


def test_an_unknown_defence_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="defence = 'trades': allowed are fgsm, fgsm_no_ll, nat"):
        inner_attack(Profile(), "trades")


def test_strong_attacks_begin_with_the_papers_and_are_met_by_rows_and_sources():
    profile = read_profile(profile_path("paper"))
    usual, harder = evaluation(profile), strong(profile, "cifar100")
    first, long, *margins = harder.attacks.attacks
    assert first == usual.attacks["pgd"] and long.steps == 50
    assert {attack.threat_model for attack in harder.attacks.attacks} == {usual.threat_model}
    assert [attack.targets for attack in margins] == [0, 5]
    assert harder.dataset == "cifar100" and harder.test_size == 1000
    assert strong(profile.model_copy(update={"test_size": 60}), "cifar10").test_size == 60


def test_every_network_has_its_measurements():
    profile = Profile(further_seeds=(1,))
    kinds = Counter(tuple(measurements(profile, n)) for n in grid(profile) + again(profile))
    assert kinds == {
        ("evaluation", "strong", "budgets"): 25,
        ("strong",): 3,
        ("evaluation",): 5,  # of the further seed
        (): 3,  # the surrogate, and sources of the further seed
    }


def test_another_budget_or_more_steps_in_evaluation_train_nothing():
    usual = Profile()
    other = Profile(evaluation_epsilon=4 / 255, evaluation_steps=20)
    assert [n.config for n in grid(other)] == [n.config for n in grid(usual)]
    first = rows(grid(usual))[0]
    for name, how in measurements(usual, first).items():
        assert measurements(other, first)[name] != how
    pgd, hard = evaluation(other).attacks["pgd"], strong(other, "cifar10").attacks.attacks
    assert (pgd.threat_model.epsilon, pgd.step_size, pgd.steps) == (4 / 255, 1 / 255, 20)
    assert {attack.threat_model.epsilon for attack in hard} == {4 / 255}
    assert budgets(other).epsilons == (1 / 255, 2 / 255, 4 / 255, 6 / 255, 8 / 255, 0.5)
    assert Profile(evaluation_epsilon=0).evaluated.epsilon == 0


def test_no_budget_is_larger_than_the_scale():
    assert max(budgets(Profile(epsilon=0.8)).epsilons) == 1
