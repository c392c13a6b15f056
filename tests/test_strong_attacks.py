"""Strong attacks stay inside their budget, and find what weaker ones miss."""

import pytest
import torch
from torch import nn

from robust_transfer.attacks import PGD, InTurn, MarginPGD, ThreatModel, fgsm, strongest
from robust_transfer.data.registry import load
from robust_transfer.networks.registry import build

BALL = ThreatModel(epsilon=0.1)
ATTACKS = {
    "margin": MarginPGD(threat_model=BALL, steps=5, step_size=0.05),
    "targeted": MarginPGD(threat_model=BALL, steps=5, step_size=0.05, targets=3, restarts=2),
    "in turn": strongest(BALL),
}


def right(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) == labels


@pytest.fixture
def network(trained, family):
    return trained.model(family["baseline"])


@pytest.fixture(scope="module")
def shown():
    return next(load("glyphs10", "test", 100).batches(100))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_strong_attack_keeps_its_budget_and_the_network_as_it_was(attack, network, shown):
    images, labels = shown
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adversarial = attack(network, images, labels)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (adversarial - images).abs().max() <= BALL.epsilon + 1e-6
    assert not torch.equal(adversarial, images) and not adversarial.requires_grad
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(attack(network, images, labels), adversarial)  # the same starts every time
    with torch.inference_mode():
        assert torch.equal(attack(network, images, labels), adversarial)


def test_other_starts_are_other_images(network, shown):
    attack = ATTACKS["margin"]
    made = [attack(network, *shown, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert not torch.equal(*made)


def test_more_targets_and_restarts_leave_no_more(network, shown):
    left = right(network, ATTACKS["targeted"](network, *shown), shown[1])
    few = MarginPGD(threat_model=BALL, steps=5, step_size=0.05, targets=1)
    assert left.sum() <= right(network, few(network, *shown), shown[1]).sum()


def test_attacks_in_turn_never_leave_more_than_the_first(network, shown):
    images, labels = shown
    attack = strongest(ThreatModel(epsilon=0.03))
    met = {name: places for name, places, _ in attack.rounds(network, images, labels)}
    assert list(met) == ["pgd_7", "pgd_50", "margin", "margin_5"][: len(met)]
    weak = right(network, attack.named["pgd_7"](network, images, labels), labels)
    assert torch.equal(met["pgd_50"], weak.nonzero()[:, 0])
    strong = right(network, attack(network, images, labels), labels)
    assert not (strong & ~weak).any() and 0 < strong.sum() < weak.sum()


class Sure(nn.Module):
    """A network whose logits are so far apart that their cross-entropy has no slope."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images):
        return self.scale * self.network(images)


def test_a_network_that_hides_its_gradient_is_broken(network, shown):
    images, labels = shown
    for scale, hidden in ((1, False), (1e5, True)):
        sure = Sure(network, scale)
        plain, sought = (
            right(sure, attack(sure, images, labels), labels).sum()
            for attack in (PGD(threat_model=BALL, step_size=0.025), ATTACKS["margin"])
        )
        assert (sought < plain - 10) == hidden
        natural = right(sure, images, labels).sum()
        assert (plain > natural - 10) == hidden


class Planted(nn.Module):
    """Says 0 everywhere but in a corner of the ball around grey, which no single step reaches."""

    def forward(self, images):
        x = images.mean((2, 3)) - 0.5
        bowl = 40 * (x[:, 0] + 0.06).square() - x[:, 1]  # a detour: first down, then along
        wall = (x[:, 0] + 0.05).relu() * 100
        return torch.stack([bowl + wall + 0.095, torch.zeros_like(bowl)], 1)


def test_a_planted_adversarial_example_is_found():
    images, labels = torch.full((4, 3, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    model = Planted()
    corner = images.clone()
    corner[:, 0] -= 0.06
    corner[:, 1] += 0.1
    assert right(model, images, labels).all() and not right(model, corner, labels).any()
    assert right(model, fgsm(BALL)(model, images, labels), labels).all()
    assert not right(model, strongest(BALL)(model, images, labels), labels).any()


@pytest.mark.parametrize("attack", [ATTACKS["margin"], ATTACKS["in turn"]])
def test_independent_labels_and_bad_images_are_refused(attack, shown):
    images, _ = shown
    with pytest.raises(ValueError, match=r"labels have shape \(100, 10\): allowed is \(N,\)"):
        attack(build("resnet8", 10, 0), images, torch.zeros(100, 10))
    with pytest.raises(ValueError, match=r"images lie in .*, 2\]: allowed is \[0, 1\]"):
        attack(build("resnet8", 10, 0), 2 * images / images.max(), shown[1])


def test_attacks_in_turn_are_read_as_they_were_written():
    attack = strongest(BALL)
    assert InTurn(**attack.model_dump(mode="json")) == attack
    assert hash(attack) == hash(strongest(BALL)) != hash(strongest())
    assert [type(a) for a in attack.attacks] == [PGD, PGD, MarginPGD, MarginPGD]
