"""Attacks do what their formula says, stay in the ball, and leave the model as they found it."""

import copy
import math

import foolbox
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from robust_transfer.attacks import (
    EPSILON,
    PGD,
    ThreatModel,
    deepfool,
    fgsm,
    in_mode,
    input_gradient,
    loss_of,
    predicted,
    share_right,
)
from robust_transfer.networks.registry import build

ATTACKS = {
    "fgsm": fgsm(),
    "fgsm on predicted labels": fgsm(labels="predicted"),
    "pgd": PGD(steps=3),
    "pgd from a random start": PGD(steps=3, random_start=True),
    "pgd of a large step": PGD(steps=2, step_size=0.5),
    "pgd of a large ball": PGD(threat_model=ThreatModel(epsilon=0.9), steps=3, step_size=0.4),
    "pgd in train mode": PGD(steps=2, mode="train"),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def linear(seed=0):
    """Two logits, linear in the image: the gradient's sign is known and never zero."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    nn.init.normal_(model[1].weight, generator=Generator().manual_seed(seed))
    return model


def uphill(model, labels):
    """Sign of the loss's gradient: towards the weights of the other class."""
    weight = model[1].weight.detach()
    return (weight[1 - labels] - weight[labels]).sign().view(-1, 3, 4, 4)


def smooth():
    """A small network whose gradient turns within the ball."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
        nn.Tanh(),
        nn.Linear(5, 4),
    )
    for index, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.5, generator=Generator().manual_seed(index))
    return model


@pytest.fixture
def middle():
    """Images far from 0 and 1, and labels of two classes."""
    images = 0.3 + 0.4 * torch.rand(6, 3, 4, 4, generator=Generator().manual_seed(3))
    return images, torch.tensor([0, 1, 1, 0, 1, 0])


def test_fgsm_moves_every_pixel_by_epsilon_up_the_gradient(middle):
    images, labels = middle
    model = linear()
    torch.testing.assert_close(
        fgsm()(model, images, labels), images + EPSILON * uphill(model, labels), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9])
def test_pgd_on_a_linear_model_walks_straight_to_the_edge_of_the_ball(middle, steps):
    images, labels = middle
    model = linear()
    moved = min(steps * EPSILON / 4, EPSILON)
    torch.testing.assert_close(
        PGD(steps=steps)(model, images, labels),
        images + moved * uphill(model, labels),
        rtol=0,
        atol=1e-6,
    )


def test_attacks_stop_at_black_and_white():
    images = torch.zeros(2, 3, 4, 4)
    images[1] = 1
    labels, model = torch.tensor([0, 0]), linear()
    expected = (images + EPSILON * uphill(model, labels)).clamp(0, 1)
    for attack in (fgsm(), PGD()):
        torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-7)


def test_predicted_labels_send_a_wrong_model_the_other_way(middle):
    images, _ = middle
    model = linear()
    predicted = model(images).argmax(1)
    right, wrong = predicted, 1 - predicted
    attack = fgsm(labels="predicted")
    assert torch.equal(attack(model, images, right), fgsm()(model, images, right))
    assert torch.equal(attack(model, images, wrong), fgsm()(model, images, right))
    assert not torch.equal(attack(model, images, wrong), fgsm()(model, images, wrong))


def test_pgd_takes_the_gradient_at_the_current_iterate_unlike_the_printed_formula():
    """Claim D39: with the gradient at the clean image, seven steps reduce to FGSM."""
    model, (epsilon, step) = smooth(), (0.2, 0.05)
    threat_model = ThreatModel(epsilon=epsilon)
    images = torch.rand(16, 3, 8, 8, generator=Generator().manual_seed(0))
    labels = torch.arange(16) % 4
    printed, iterated = images, images
    for _ in range(7):
        printed = printed + step * input_gradient(model, images, labels).sign()
        printed = threat_model.project(printed, images)
        iterated = iterated + step * input_gradient(model, iterated, labels).sign()
        iterated = threat_model.project(iterated, images)
    one_step = fgsm(threat_model)(model, images, labels)
    pgd = PGD(threat_model=threat_model, steps=7, step_size=step)(model, images, labels)
    torch.testing.assert_close(printed, one_step, rtol=0, atol=1e-6)
    torch.testing.assert_close(pgd, iterated, rtol=0, atol=1e-6)
    assert (pgd - printed).abs().max() > epsilon / 2
    assert F.cross_entropy(model(pgd), labels) > F.cross_entropy(model(printed), labels)


def test_the_gradient_is_that_of_the_summed_cross_entropy(middle):
    images, labels = middle
    model = linear()
    away = model(images).softmax(1) - F.one_hot(labels, 2)
    expected = (away @ model[1].weight).view_as(images)
    torch.testing.assert_close(input_gradient(model, images, labels), expected)


MANY = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def test_the_loss_of_independent_labels_is_the_mean_binary_cross_entropy():
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.1, 4.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    chance = 1 / (1 + torch.exp(-logits))
    each = -(labels * chance.log() + (1 - labels) * (1 - chance).log()).mean(1)
    torch.testing.assert_close(loss_of(logits, labels), each.mean())
    torch.testing.assert_close(loss_of(logits, labels, "sum"), each.sum())
    assert loss_of(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_classes_is_their_cross_entropy(reduction):
    logits, labels = torch.randn(5, 3, generator=Generator().manual_seed(0)), torch.arange(5) % 3
    expected = F.cross_entropy(logits, labels, reduction=reduction)
    assert torch.equal(loss_of(logits, labels, reduction), expected)


def test_answers_are_the_likeliest_class_or_every_likely_label():
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.1, 4.0]])
    classes, labels = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert predicted(logits, classes).tolist() == [0, 2]
    assert predicted(logits, labels).tolist() == [[1, 0, 1], [0, 1, 1]]
    assert predicted(logits, labels).dtype == labels.dtype
    assert share_right(logits, classes).tolist() == [1, 0]
    torch.testing.assert_close(share_right(logits, labels), torch.tensor([2 / 3, 2 / 3]))


def test_the_gradient_of_independent_labels_is_that_of_their_summed_loss(middle):
    images, model = middle[0], linear()
    away = (model(images).sigmoid() - MANY) / 2
    expected = (away @ model[1].weight).view_as(images)
    torch.testing.assert_close(input_gradient(model, images, MANY), expected)


def test_fgsm_on_independent_labels_walks_up_their_gradient(middle):
    images, model = middle[0], linear()
    uphill = ((model(images).sigmoid() - MANY) @ model[1].weight).sign().view_as(images)
    expected = images + EPSILON * uphill
    torch.testing.assert_close(fgsm()(model, images, MANY), expected, rtol=0, atol=1e-7)
    answers = (model(images) > 0).float()
    predicting = fgsm(labels="predicted")(model, images, MANY)
    assert torch.equal(predicting, fgsm()(model, images, answers))
    assert not torch.equal(answers, MANY)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_deepfool_finds_the_distance_to_a_linear_boundary_and_two_percent_more(middle, norm, dual):
    images, _ = middle
    model = linear()
    logits = model(images).detach()
    right = logits.argmax(1)
    labels = right.clone()
    labels[2] = 1 - labels[2]
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    expected = 1.02 * (logits[:, 1] - logits[:, 0]).abs() / weight.norm(dual)
    expected[2] = 0
    found = deepfool(model, images, labels, norm)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=2e-4)
    assert found[2] == 0


def test_deepfool_says_where_it_found_nothing(middle):
    model = linear()
    nn.init.zeros_(model[1].weight)
    nn.init.constant_(model[1].bias, 1.0)
    with torch.no_grad():
        model[1].bias[0] = 2
    labels = torch.tensor([0, 0, 1, 0, 1, 0])
    found = deepfool(model, middle[0], labels, "l2", steps=3)
    assert found.tolist() == [math.inf, math.inf, 0, math.inf, 0, math.inf]


def test_half_as_much_again_as_deepfool_needed_is_enough_for_pgd(trained, family, batch):
    model, (images, labels) = trained.model(family["baseline"]), batch
    size = deepfool(model, images, labels, "linf")
    right = model(images).argmax(1) == labels
    assert torch.equal(size == 0, ~right)
    assert size[right].isfinite().all()
    largest = ThreatModel(epsilon=1.5 * size.max().item())
    attack = PGD(threat_model=largest, steps=20, step_size=largest.epsilon / 8)
    assert (model(attack(model, images, labels)).argmax(1) != labels).all()
    with torch.no_grad():
        assert torch.equal(deepfool(model, images, labels, "linf"), size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": MANY}, r"labels have shape \(6, 2\): allowed is \(N,\), a class each"),
        ({"norm": "l1"}, "norm = 'l1': allowed are l2, linf"),
        ({"steps": 0}, "steps = 0: allowed is 1 or more"),
        ({"images": torch.full((6, 3, 4, 4), 2.0)}, r"images lie in \[2, 2\]"),
    ],
)
def test_a_bad_request_to_deepfool_is_named_in_one_line(middle, changes, message):
    asked = {"images": middle[0], "labels": middle[1], "norm": "l2", "steps": 5} | changes
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        deepfool(linear(), **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_agree_with_foolbox(trained, family, batch, name):
    model = trained.model(family["baseline"])
    images, labels = batch
    theirs = {
        "fgsm": foolbox.attacks.FGSM(random_start=False),
        "pgd": foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 4, steps=7, random_start=False),
    }[name]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, expected, _ = theirs(wrapped, images, labels, epsilons=EPSILON)
    ours = {"fgsm": fgsm(), "pgd": PGD()}[name](model, images, labels)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert (ours != images).float().mean() > 0.5


@every_attack
def test_adversarial_images_stay_in_the_ball_and_in_range(model, batch, attack):
    images, labels = batch
    adversarial = attack(model, images, labels, Generator().manual_seed(0))
    assert (adversarial - images).abs().max() <= attack.threat_model.epsilon + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert adversarial.shape == images.shape and not torch.equal(adversarial, images)


@every_attack
def test_a_budget_of_nothing_returns_the_images(model, batch, attack):
    harmless = attack.model_copy(update={"threat_model": ThreatModel(epsilon=0)})
    assert torch.equal(harmless(model, *batch, Generator().manual_seed(0)), batch[0])


def distances(model, images, labels, generator):
    return deepfool(model, images, labels, "l2", steps=2)


@pytest.mark.parametrize(
    "attack", [*ATTACKS.values(), distances], ids=[*ATTACKS.keys(), "deepfool"]
)
def test_an_attack_leaves_everything_as_it_found_it(model, batch, attack):
    images, labels = batch
    F.cross_entropy(model(images), labels).backward()
    model.train()
    model.stage2.eval()
    model.stem[1].eval()
    model.stage1.requires_grad_(False)
    images, torch_state = images.clone(), torch.get_rng_state()

    def snapshot():
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        needs = {name: p.requires_grad for name, p in model.named_parameters()}
        return {m: m.training for m in model.modules()}, needs, gradients

    modes, needs, gradients = snapshot()
    weights = copy.deepcopy(dict(model.named_parameters()))
    found = attack(model, images, labels, Generator().manual_seed(0))
    assert snapshot()[:2] == (modes, needs)
    torch.testing.assert_close(snapshot()[2], gradients, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.named_parameters()), weights, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(images, batch[0])
    assert not found.requires_grad and not images.requires_grad


def test_the_modes_come_back_when_the_model_fails(model, batch):
    model.stage1.eval()
    modes = [m.training for m in model.modules()]
    model.head = nn.Linear(5, 10)
    with pytest.raises(RuntimeError):
        PGD()(model, *batch)
    assert [m.training for m in model.modules()] == modes


def test_in_mode_puts_every_module_in_the_mode(model):
    for mode in ("train", "eval"):
        with in_mode(model, mode):
            assert {m.training for m in model.modules()} == {mode == "train"}


def test_attacks_work_where_gradients_are_switched_off(model, batch):
    expected = PGD(steps=2)(model, *batch)
    with torch.no_grad():
        assert torch.equal(PGD(steps=2)(model, *batch), expected)


def test_the_random_start_is_uniform_in_the_ball_and_decided_by_its_generator(model, batch):
    images, labels = batch
    start = PGD(steps=1, step_size=0, random_start=True)
    first, same, other = (
        start(model, images, labels, Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    inside = (images > EPSILON) & (images < 1 - EPSILON)
    noise = ((first - images) / EPSILON)[inside]
    assert noise.abs().max() <= 1 + 1e-5
    quarters = torch.histc(noise, 4, -1, 1) / noise.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.02)


def test_modes_differ_in_the_statistics_used_and_neither_moves_the_running_ones(batch):
    model = build("resnet8", 10, seed=1)
    before = copy.deepcopy(model.state_dict())
    in_eval = PGD(steps=2)(model, *batch)
    fgsm(labels="predicted")(model, *batch)
    in_train = PGD(steps=2, mode="train")(model, *batch)
    assert not torch.equal(in_eval, in_train)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_random_start_without_a_generator_is_refused(batch):
    with pytest.raises(ValueError, match=r"^generator = None: a random start needs one"):
        PGD(random_start=True)(build("resnet8", 10, seed=1), *batch)


GOOD, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
BAD = {
    "three dimensions": (GOOD[0], LABELS, r"images have shape \(3, 8, 8\)"),
    "one channel": (GOOD[:, :1], LABELS, r"images have shape \(4, 1, 8, 8\)"),
    "bytes": ((255 * GOOD).byte(), LABELS, "images are torch.uint8"),
    "0 to 255": (255 * GOOD, LABELS, r"images lie in \[.*\]: allowed is \[0, 1\]"),
    "-1 to 1": (2 * GOOD - 1, LABELS, r"images lie in \[-"),
    "not a number": (GOOD / 0 * 0, LABELS, r"images lie in \[nan, nan\]"),
    "too few labels": (GOOD, LABELS[:3], r"labels have shape \(3,\): allowed is \(4,\)"),
    "too many label rows": (
        GOOD,
        torch.ones(5, 2),
        r"labels have shape \(5, 2\): .* \(4, classes\)",
    ),
    "negative class": (GOOD, -LABELS - 7, "labels hold -.*: allowed are classes from 0"),
    "soft labels": (GOOD, torch.full((4, 2), 0.5), "labels hold 0.5: allowed are 0 and 1"),
    "one-hot labels": (GOOD, F.one_hot(LABELS), r"labels have shape \(4, 4\): allowed is \(4,\)"),
}


@pytest.mark.parametrize(("images", "labels", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_in_one_line(model, images, labels, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        fgsm()(model, images, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThreatModel(epsilon=-0.1), "epsilon = -0.1: "),
        (lambda: ThreatModel(epsilon=8), "epsilon = 8: "),
        (lambda: ThreatModel(epsilon=float("nan")), "epsilon = nan: "),
        (lambda: PGD(steps=0), "steps = 0: "),
        (lambda: PGD(step_size=-1), "step_size = -1: "),
        (lambda: PGD(labels="least_likely"), "labels = 'least_likely': "),
        (lambda: PGD(mode="test"), "mode = 'test': "),
        (lambda: PGD(restarts=3), "unknown parameter restarts; known: labels, mode, random_start"),
    ],
)
def test_a_bad_attack_is_refused_in_one_line_that_names_the_parameter(make, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_fgsm_is_one_full_step_of_pgd():
    budget = ThreatModel(epsilon=0.1)
    assert fgsm(budget, "predicted") == PGD(
        threat_model=budget, steps=1, step_size=0.1, labels="predicted"
    )
    assert pytest.approx(0.0625) == 2 * EPSILON  # on the paper's scale from -1 to 1
