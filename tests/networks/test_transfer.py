"""A strategy retrains exactly the parts that it names, and the rest stays the source's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_transfer.attacks import PGD
from robust_transfer.evaluation.layers import gradient_flow
from robust_transfer.networks.registry import build
from robust_transfer.networks.transfer import STRATEGIES, train_mode, trainable_weights, transplant
from robust_transfer.training.loop import initial_model, load_data, train

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def source_state(network="resnet8", classes=20):
    """A source's state with statistics of its own, as after training."""
    model = build(network, classes, seed=7)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 3, 16, 16))
    return model.state_dict()


@pytest.mark.parametrize(
    ("strategy", "count"), [("head", 650), ("stage3", 648_074), ("all", 853_018)]
)
def test_strategies_retrain_the_papers_number_of_weights(strategy, count):
    state = build("resnet56", 100, seed=0).state_dict()
    model = transplant(build("resnet56", 10, seed=1), state, strategy)
    assert trainable_weights(model) == count
    assert sum(p.numel() for p in model.parameters()) == 853_018


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_but_the_head_comes_from_the_source(strategy):
    state = source_state()
    model = transplant(build("resnet8", 10, seed=1), state, strategy)
    kept = {name: v for name, v in model.state_dict().items() if not name.startswith("head.")}
    assert kept.keys() == {name for name in state if not name.startswith("head.")}
    for name, value in kept.items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("classes", [10, 100])
def test_the_head_is_new_and_drawn_pytorchs_default_way(classes):
    state = build("resnet56", classes, seed=0).state_dict()
    model = transplant(build("resnet56", 10, seed=0), state, "all")
    assert model.head.weight.shape == (10, 64)
    for drawn in (model.head.weight, model.head.bias):
        assert drawn.abs().max() <= 1 / 8
        assert drawn.unique().numel() == drawn.numel()
    assert model.head.weight.abs().max() > 0.98 / 8
    assert not torch.equal(model.head.weight, state["head.weight"][:10])


def test_the_new_head_is_decided_by_the_seed_and_leaves_the_global_generator_alone(tiny):
    source = tiny(dataset="glyphs20")
    state, before = source_state(), torch.get_rng_state()
    first, same, other = (
        initial_model(tiny(source=source, strategy="head", seed=seed), state) for seed in (1, 1, 2)
    )
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("policy", ["adapt", "freeze"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("attack", [None, PGD(steps=1)], ids=["natural", "adversarial"])
def test_training_changes_what_the_strategy_and_the_policy_say(
    tiny, tmp_path, strategy, policy, attack
):
    state = source_state()
    config = tiny(
        source=tiny(dataset="glyphs20"),
        strategy=strategy,
        attack=attack,
        epochs=1,
        frozen_batch_norm=policy,
    )
    images, device = load_data(config, ""), torch.device("cpu")
    best, _ = train(config, images, device, tmp_path / "checkpoint", state)
    retrained = STRATEGIES[strategy] or ("stem", "stage1", "stage2", "stage3", "head")
    changed = {n for n in best if not (n in state and best[n].shape == state[n].shape)}
    changed |= {n for n in best.keys() - changed if not torch.equal(best[n], state[n])}
    expected = {n for n in best if n.split(".")[0] in retrained}
    if policy == "adapt":
        expected |= {n for n in best if n.endswith(STATISTICS)}
    assert changed == expected - {"normalise.mean", "normalise.std"}


@pytest.mark.parametrize("policy", ["adapt", "freeze"])
def test_train_mode_leaves_only_frozen_batch_norm_in_eval_mode(policy):
    model = transplant(build("resnet8", 10, seed=1), source_state(), "stage3", policy).eval()
    train_mode(model)
    evaluating = {name for name, module in model.named_modules() if not module.training}
    frozen = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not name.startswith("stage3")
    }
    assert evaluating == (frozen if policy == "freeze" else set())


def test_the_source_state_is_not_changed():
    state = source_state()
    before = copy.deepcopy(state)
    model = transplant(build("resnet8", 10, seed=1), state, "all")
    nn.init.zeros_(model.stem[0].weight)
    torch.testing.assert_close(state, before, rtol=0, atol=0)


def test_an_unknown_strategy_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^strategy = 'last': allowed are all, head, stage3$"):
        transplant(build("resnet8", 10, seed=1), source_state(), "last")


def test_a_network_without_the_part_of_a_strategy_is_refused():
    state = source_state("densenet14")
    with pytest.raises(ValueError, match=r"^strategy = .*: it retrains stage3; the network has"):
        transplant(build("densenet14", 10, seed=1), state, "stage3")


@pytest.mark.parametrize("network", ["resnet8", "densenet14", "vit6"])
def test_gradient_flow_is_the_gradients_norm_over_the_weights_of_each_part(network, batch):
    model = build(network, 10, seed=1)
    twin = copy.deepcopy(model).eval()
    F.cross_entropy(twin(batch[0]), batch[1]).backward()
    expected = {}
    for name, part in twin.named_children():
        if weights := list(part.parameters()):
            lengths = [
                torch.cat([t.flatten() for t in tensors]).norm()
                for tensors in ([w.grad for w in weights], weights)
            ]
            expected[name] = (lengths[0] / lengths[1]).item()
    flow = gradient_flow(model, *batch)
    assert list(flow) == list(expected)
    assert flow == pytest.approx(expected, rel=1e-4)
    assert all(value > 0 for value in flow.values())


def test_gradient_flow_leaves_the_network_as_it_was(batch):
    model = transplant(build("resnet8", 10, seed=1), source_state(), "head")
    model.stem.eval()
    model.head.bias.grad = torch.ones(10)
    state = copy.deepcopy(model.state_dict())
    found = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        assert gradient_flow(model, *batch).keys() == {"stem", "stage1", "stage2", "stage3", "head"}
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert modes == [module.training for module in model.modules()]
    for p, (required, gradient) in zip(model.parameters(), found, strict=True):
        assert p.requires_grad == required and p.grad is gradient


def test_gradient_flow_refuses_images_outside_the_unit_interval(model, batch):
    with pytest.raises(ValueError, match=r"^images lie in \["):
        gradient_flow(model, 2 * batch[0], batch[1])
