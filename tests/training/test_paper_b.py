"""Training as in paper B: Adam, published weights, frozen batch norm, independent labels."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from robust_transfer.attacks import PGD, fgsm
from robust_transfer.data import registry
from robust_transfer.data.images import Images, divide, training_batches
from robust_transfer.data.registry import DATASETS, load, load_divided
from robust_transfer.evaluation import accuracies, measurement
from robust_transfer.networks.registry import PRETRAINED, build
from robust_transfer.networks.transfer import STRATEGIES, train_mode, trainable_weights, transplant
from robust_transfer.runner import time_batch
from robust_transfer.training import engine, loop
from robust_transfer.training.loop import (
    Step,
    TrainingConfig,
    backward,
    initial_model,
    load_data,
    train,
    train_epoch,
    validate,
)

CPU = torch.device("cpu")
ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01}
SOURCE = TrainingConfig(dataset="cifar100")


def run(config, checkpoint, images=None, source_state=None, on_epoch=lambda row: None):
    return train(config, images or load_data(config, ""), CPU, checkpoint, source_state, on_epoch)


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name in state:
        assert torch.equal(state[name], other[name]), name


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture(scope="module")
def labelled():
    """Training and validation images with three independent labels that their pixels decide."""
    drawn = load("glyphs10", "train", 128)
    channels = drawn.pixels.float().mean((2, 3))
    marked = Images.of(drawn.pixels, (channels > channels.median(0).values).float())
    return divide(marked, 96, 0)


@pytest.fixture(scope="module")
def source_state():
    """A source's state with statistics of its own, as after training."""
    model = build("resnet8", 20, seed=7)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 3, 16, 16))
    return model.state_dict()


def test_an_epoch_with_adam_is_pytorchs_adam(tiny, model):
    config = tiny(**ADAM, decay_epochs=(1,))
    images, _ = load_data(config, "")
    twin, step = copy.deepcopy(model), Step(model, config)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, weight_decay=0.01)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(epoch)
        train_epoch(step, images, epoch)
        for pixels, labels in training_batches(images, 32, Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            F.cross_entropy(twin(pixels), labels).backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_an_interrupted_run_of_adam_ends_bit_equal_to_an_uninterrupted_one(tiny, tmp_path):
    config = tiny(**ADAM, epochs=4, attack=PGD(steps=2, random_start=True))

    def interrupt(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "interrupted", on_epoch=interrupt)
    resumed, progress = run(config, tmp_path / "interrupted")
    whole, expected = run(config, tmp_path / "whole")
    assert_same(resumed, whole)
    assert without_seconds(progress.history) == without_seconds(expected.history)


@pytest.mark.parametrize("attack", [None, fgsm(labels="predicted"), PGD(steps=2)])
@pytest.mark.parametrize("halves", ["separate", "joint"])
def test_gradients_of_independent_labels_are_those_of_binary_cross_entropy(
    tiny, batch, labelled, attack, halves
):
    images, labels = next(labelled[0].batches(16))
    model = build("resnet8", 3, seed=1)
    twin = copy.deepcopy(model)
    loss = backward(model, tiny(attack=attack, halves=halves), images, labels, Generator())
    bce = F.binary_cross_entropy_with_logits
    if attack is None:
        expected = bce(twin(images), labels)
    elif halves == "separate":
        clean = bce(twin(images), labels)
        expected = (clean + bce(twin(attack(twin, images, labels)), labels)) / 2
    else:
        both = torch.cat([images, attack(twin, images, labels)])
        expected = bce(twin(both), labels.repeat(2, 1))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(model.head.weight.grad, twin.head.weight.grad)


def test_validation_counts_independent_labels_one_by_one(tiny, labelled):
    attack, model = PGD(steps=2), build("resnet8", 3, seed=1)
    images, labels = next(labelled[1].batches(32))
    model(images)
    model.eval()
    shown = images, attack(model, images, labels)
    expected = [((model(seen) > 0).float() == labels).float().mean().item() for seen in shown]
    assert list(validate(model, tiny(attack=attack), labelled[1])) == pytest.approx(expected)


def test_independent_labels_are_learned_and_timed(tiny, labelled, tmp_path, monkeypatch):
    three = replace(DATASETS["glyphs10"], class_names=["a", "b", "c"])
    monkeypatch.setitem(DATASETS, "glyphs10", three)
    config = tiny(optimizer="adam", learning_rate=0.01, epochs=8)
    history = run(config, tmp_path / "checkpoint", labelled)[1].history
    assert max(row["natural"] for row in history) > 0.75
    assert time_batch(config, labelled[0], CPU) > 0


def test_large_images_are_validated_in_small_batches(tiny, labelled, monkeypatch):
    seen, model = [], build("resnet8", 3, seed=1)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    whole = validate(model, tiny(), labelled[1])
    monkeypatch.setattr(engine, "ATTACKED_PIXELS", 10 * 16 * 16)
    assert validate(model, tiny(), labelled[1]) == pytest.approx(whole)
    assert seen == [32, 10, 10, 10, 2]
    model.size = 8  # the side to which a network resizes its images
    assert validate(model, tiny(), labelled[1]) == pytest.approx(whole)
    assert seen[5:] == [32]
    model.size = 50
    assert engine.batch_size(500, model, labelled[1].pixels) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("attack", [None, PGD(steps=1)], ids=["natural", "adversarial"])
def test_freeze_all_keeps_every_batch_norm(tiny, tmp_path, source_state, strategy, attack):
    config = tiny(
        source=tiny(dataset="glyphs20"),
        strategy=strategy,
        attack=attack,
        epochs=1,
        frozen_batch_norm="freeze_all",
    )
    best, _ = run(config, tmp_path / "checkpoint", source_state=source_state)
    retrained = STRATEGIES[strategy] or ("stem", "stage1", "stage2", "stage3", "head")
    layers = build("resnet8", 10, 0).named_modules()
    layers = [name for name, layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    expected = {f"{name}.weight" for name in layers if name.split(".")[0] in retrained}
    same = {name for name, value in source_state.items() if torch.equal(best[name], value)}
    assert best.keys() - same == expected | {"head.bias"}


def test_freeze_all_is_freeze_where_only_the_head_is_retrained(source_state):
    frozen = []
    for policy in ("freeze", "freeze_all"):
        model = transplant(build("resnet8", 10, seed=1), source_state, "head", policy)
        train_mode(model)
        needs = {name: p.requires_grad for name, p in model.named_parameters()}
        frozen.append((needs, [m.training for m in model.modules()], trainable_weights(model)))
    assert frozen[0] == frozen[1]


def test_from_scratch_freeze_all_freezes_nothing(tiny):
    model = initial_model(tiny(frozen_batch_norm="freeze_all"), None)
    train_mode(model)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


KEPT = {"strategy": "head", "frozen_batch_norm": "freeze_all", "features": "kept"}


@pytest.fixture(scope="module")
def heads(tiny):
    """A head that is trained on kept features for four epochs, the last of which stays."""
    adam = {"optimizer": "adam", "learning_rate": 0.02, "weight_decay": 0.01}
    source = tiny(dataset="glyphs20")
    return tiny(**adam, **KEPT, source=source, epochs=4, decay_epochs=(2,), selection="last")


def features_by_hand(state, images):
    """What the head of a network with this state meets of whole sets of images."""
    bare = build("resnet8", 20, seed=0)
    bare.load_state_dict(state)
    bare.head = nn.Identity()
    return bare.eval()(images.pixels.float() / 255).detach()


@pytest.mark.parametrize("batch_norm", ["freeze", "freeze_all"])
def test_kept_features_leave_all_but_the_head_as_it_was(heads, tmp_path, source_state, batch_norm):
    config = TrainingConfig(**dict(heads) | {"frozen_batch_norm": batch_norm})
    best, progress = run(config, tmp_path / "checkpoint", source_state=source_state)
    fresh = initial_model(config, source_state).state_dict()
    for name, value in best.items():
        assert torch.equal(value, fresh[name]) != name.startswith("head."), name
        assert name.startswith("head.") or torch.equal(value, source_state[name])
    losses = [row["loss"] for row in progress.history]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_a_head_on_kept_features_is_a_linear_layer_trained_on_them(heads, tmp_path, source_state):
    images, _ = load_data(heads, "")
    features = features_by_hand(source_state, images)
    linear = copy.deepcopy(initial_model(heads, source_state).head)
    optimizer = torch.optim.Adam(linear.parameters(), weight_decay=0.01)
    for epoch, rate in enumerate((0.02, 0.02, 0.002, 0.002)):
        optimizer.param_groups[0]["lr"] = rate
        generator = Generator().manual_seed(heads.seed * 1_000_003 + epoch)
        for chosen in torch.randperm(96, generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(linear(features[chosen]), images.labels[chosen]).backward()
            optimizer.step()
    best, _ = run(heads, tmp_path / "checkpoint", source_state=source_state)
    torch.testing.assert_close(best["head.weight"], linear.weight.detach())
    torch.testing.assert_close(best["head.bias"], linear.bias.detach())
    before = initial_model(heads, source_state).head.weight
    assert (before - linear.weight).abs().max() > 0.05


def test_a_head_on_kept_features_is_validated_as_the_network_is(heads, tmp_path, source_state):
    config = TrainingConfig(**dict(heads) | {"selection": "mean"})
    images = load_data(config, "")
    best, progress = run(config, tmp_path / "checkpoint", images, source_state)
    model = build("resnet8", 10, seed=0)
    model.load_state_dict(best)
    row = progress.history[progress.best_epoch]
    assert row["natural"] == pytest.approx(validate(model, config, images[1])[0])
    assert row["natural"] == max(row["natural"] for row in progress.history)
    assert row["adversarial"] is None and 0 < row["natural"] < 1


def test_a_killed_training_on_kept_features_ends_where_an_uninterrupted_one_does(
    heads, tmp_path, source_state
):
    def interrupt(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(heads, tmp_path / "killed", source_state=source_state, on_epoch=interrupt)
    rows = []
    resumed, progress = run(
        heads, tmp_path / "killed", source_state=source_state, on_epoch=rows.append
    )
    assert [row["epoch"] for row in rows] == [2, 3]
    whole, expected = run(heads, tmp_path / "whole", source_state=source_state)
    assert_same(resumed, whole)
    assert without_seconds(progress.history) == without_seconds(expected.history)


@pytest.mark.usefixtures("as_configured")
def test_kept_features_are_those_of_every_batch_of_any_size(
    heads, source_state, labelled, monkeypatch
):
    model = initial_model(heads, source_state).train()
    whole = loop.features_of(model, heads, labelled[0])
    assert all(module.training for module in model.modules())
    monkeypatch.setattr(engine, "ATTACKED_PIXELS", 10 * 16 * 16)
    parts = loop.features_of(model, heads, labelled[0])
    for found in (whole, parts):
        by_hand = features_by_hand(source_state, labelled[0])
        torch.testing.assert_close(found.pixels, by_hand, rtol=1e-4, atol=1e-5)
        assert found.labels is labelled[0].labels
    assert not model.head._forward_pre_hooks
    half = loop.features_of(model, heads.model_copy(update={"precision": "bf16"}), labelled[0])
    assert half.pixels.dtype == torch.float32
    assert 0 < (half.pixels - whole.pixels).abs().max() < 0.05 * whole.pixels.abs().max()


@pytest.fixture
def published(monkeypatch):
    """A resnet8 with published weights, as for 1000 classes but for its head."""
    weights = build("resnet8", 10, seed=99).state_dict()

    def draw(name, classes, seed, pretrained=False):
        model = build(name, classes, seed)
        if pretrained:
            kept = {k: v for k, v in weights.items() if not k.startswith("head.")}
            model.load_state_dict(model.state_dict() | kept)
        return model

    monkeypatch.setattr(loop, "build", draw)
    monkeypatch.setitem(PRETRAINED, "resnet8", draw)
    return weights


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pretrained_network_starts_from_published_weights_under_a_new_head(
    tiny, published, strategy
):
    first, same, other = (
        initial_model(tiny(pretrained=True, strategy=strategy, seed=seed), None)
        for seed in (1, 1, 2)
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, published[name]) != name.startswith("head."), name
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.abs().max() <= 1 / 32**0.5
    reference = transplant(build("resnet8", 10, seed=1), published, strategy)
    assert trainable_weights(first) == trainable_weights(reference)


def test_pretrained_weights_are_asked_for_only_where_configured(tiny, published):
    model = initial_model(tiny(), None)
    assert torch.equal(model.stem[0].weight, build("resnet8", 10, 0).stem[0].weight)


def test_images_are_loaded_in_the_configured_size(tiny, monkeypatch):
    calls = []

    def note(*args):
        calls.append(args[-1])
        return load(*args)

    for module in (registry, measurement):
        monkeypatch.setattr(module, "load", note)
    load_divided.cache_clear()
    for config in (tiny(), tiny(image_size=24)):
        load_data(config, "")
        accuracies.test_images(accuracies.EvaluationConfig(surrogate=config, test_size=10), "")
    assert calls == [0, 0, 24, 24]


BAD = "^features = 'kept': allowed is it for strategy = 'head' with frozen_batch_norm, without an "

CHANGES = [
    {"optimizer": "adam"},
    {"image_size": 64},
    {"pretrained": True, "strategy": "all", "network": "imagenet_resnet50"},
    {"source": SOURCE, "strategy": "all"},
    {"source": SOURCE, "strategy": "all", "frozen_batch_norm": "freeze_all"},
    {"source": SOURCE, "strategy": "head", "frozen_batch_norm": "freeze_all"},
    {"source": SOURCE} | KEPT,
]


def test_every_new_field_changes_the_hash_and_none_the_old_ones():
    configs = [TrainingConfig(**fields) for fields in ({}, *CHANGES)]
    assert len({config.hash for config in configs}) == len(configs)
    for config in configs:
        assert TrainingConfig(**config.model_dump(mode="json")).hash == config.hash
    defaults = {"optimizer": "sgd", "image_size": 0, "pretrained": False, "features": "computed"}
    assert TrainingConfig(**defaults).hash == TrainingConfig().hash == "44136fa355b3678a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer = 'lbfgs': "),
        ({"image_size": -1}, "image_size = -1: "),
        ({"pretrained": True}, "source and strategy go together, as do pretrained and strategy"),
        ({"pretrained": True, "strategy": "none"}, "strategy = 'none': allowed are all, head"),
        (
            {"pretrained": True, "strategy": "all", "source": SOURCE},
            "pretrained = True: allowed is only a network without a source",
        ),
        ({"frozen_batch_norm": "freeze_some"}, "frozen_batch_norm = 'freeze_some': "),
        ({"features": "cached"}, "features = 'cached': Input should be 'computed' or 'kept'"),
        ({"features": "kept"}, BAD),
        (KEPT | {"source": SOURCE, "strategy": "stage3"}, BAD),
        (KEPT | {"source": SOURCE, "frozen_batch_norm": "adapt"}, BAD),
        (KEPT | {"source": SOURCE, "attack": PGD(steps=1)}, BAD),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainingConfig(**fields)
    assert "\n" not in str(caught.value)
