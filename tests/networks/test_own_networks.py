"""Networks of a user's own: used as they are, or refused in one line before anything is trained."""

from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from robust_transfer.attacks import PGD, MarginPGD, deepfool
from robust_transfer.data.registry import load
from robust_transfer.evaluation import accuracies
from robust_transfer.networks.backbones import Normalise
from robust_transfer.networks.cifar import ResNet
from robust_transfer.networks.registry import NETWORKS, build
from robust_transfer.networks.transfer import batch_norms, train_mode, trainable_weights
from robust_transfer.records.store import WEIGHTS, Store
from robust_transfer.training.engine import FoldedResNet, folded
from robust_transfer.training.loop import TrainingConfig, initial_model

CPU = torch.device("cpu")
SIZES = {"train_size": 96, "validation_size": 32, "epochs": 1, "batch_size": 32}


def convolution(width: int = 8, norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), norm or nn.BatchNorm2d(width), nn.ReLU()
    )


class Small(nn.Module):
    """Stem, last stage and head; what is changed of it are keywords."""

    def __init__(self, classes: int, norm=lambda: nn.BatchNorm2d(8), head=nn.Linear) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm(), nn.ReLU())
        self.head = head(8, classes)

    def forward(self, images):
        return self.head(self.stage3(self.stem(images)).mean((2, 3)))


class Viewing(Small):
    """Flattens by ``view``, which asks for PyTorch's own layout in memory."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.head = nn.Linear(8 * 16 * 16, classes)

    def forward(self, images):
        features = self.stage3(self.stem(images))
        return self.head(features.view(len(features), -1))


class Tied(Small):
    """One stage that is passed twice, under two names."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.stage2 = self.stage3

    def forward(self, images):
        return self.head(self.stage3(self.stage2(self.stem(images))).mean((2, 3)))


class Tokens(Small):
    """A parameter that hangs on the network itself."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.token = nn.Parameter(torch.zeros(8))

    def forward(self, images):
        return self.head(self.stage3(self.stem(images)).mean((2, 3)) + self.token)


class Computing(Small):
    """Its constructor looks at the values of a tensor."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = float(torch.linspace(0, 1, 5).max())


class Looking(Small):
    """What it does depends on the values of its input."""

    def forward(self, images):
        return super().forward(images if images.mean() > 0 else -images)


class Tuple(Small):
    """Answers with features too."""

    def forward(self, images):
        features = self.stage3(self.stem(images)).mean((2, 3))
        return self.head(features), features


class Headless(nn.Sequential):
    """Parts without names."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, classes))


class Flat(Small):
    """Batch norm of features, not of images."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.stage2 = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    def forward(self, images):
        return self.head(self.stage2(self.stage3(self.stem(images)).mean((2, 3))))


class Bare(nn.Module):
    """Nothing to train."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.head = nn.Identity()

    def forward(self, images):
        return self.head(images.flatten(1)[:, : self.classes])


class TwoHeads(Small):
    """More than the head depends on the number of classes."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.other = nn.Linear(8, classes)


OWN = {
    "viewing": Viewing,
    "tied": Tied,
    "tokens": Tokens,
    "computing": Computing,
    "flat": Flat,
    "looking": Looking,
    "sequence": lambda classes: Small(
        classes, head=lambda width, n: nn.Sequential(nn.Dropout(0.2), nn.Linear(width, n))
    ),
    "without_weights": lambda classes: Small(classes, norm=lambda: nn.BatchNorm2d(8, affine=False)),
    "tuple": Tuple,
    "headless": Headless,
    "bare": Bare,
    "lazy": lambda classes: Small(classes, head=lambda width, n: nn.LazyLinear(n)),
    "two_heads": TwoHeads,
}


@pytest.fixture(autouse=True)
def own(monkeypatch):
    for name, network in OWN.items():
        monkeypatch.setitem(NETWORKS, name, network)


def transfer(network: str, strategy: str = "all", **changes) -> TrainingConfig:
    source = TrainingConfig(name="source", network=network, dataset="glyphs20", **SIZES)
    fields = {"name": "target", "network": network, "dataset": "glyphs10", "source": source}
    return TrainingConfig(**fields | {"strategy": strategy} | SIZES | changes)


@pytest.mark.parametrize("network", ["viewing", "tied", "computing", "looking", "sequence", "flat"])
@pytest.mark.parametrize("strategy", ["head", "all"])
def test_what_pytorch_trains_is_trained_and_transferred(network, strategy, tmp_path):
    config, store = transfer(network, strategy, attack=PGD(steps=1)), Store(tmp_path)
    store.get_or_train(config, "", CPU)
    model, source = store.model(config), store.state(config.source)
    images = load("glyphs10", "test", 40)
    found = accuracies.sweep({"own": model}, images, {8.0: PGD(steps=2)})
    assert 0 <= found.loc[8.0, "own"] <= 1
    moved = {
        name for name, value in store.state(config).items() if not torch.equal(value, source[name])
    }
    assert any(name.startswith("head") for name in moved)
    assert any(name.startswith("stem") and "weight" in name for name in moved) == (
        strategy == "all"
    )


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    config, store = transfer("tied"), Store(tmp_path)
    store.get_or_train(config, "", CPU)
    names = store.state(config).keys()
    assert not {name for name in names if name.startswith("stage2")}
    model = store.model(config)
    assert model.stage2[0].weight is model.stage3[0].weight
    assert torch.equal(model.stage2[0].weight, store.state(config)["stage3.0.weight"])


def test_all_trains_what_hangs_on_the_network_itself_too():
    config = transfer("tokens")
    model = initial_model(config, build("tokens", 20, 0).state_dict())
    assert trainable_weights(model) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("network", ["flat", "without_weights"])
@pytest.mark.parametrize(("policy", "strategy"), [("freeze", "head"), ("freeze_all", "all")])
def test_batch_norm_of_every_kind_is_frozen(network, policy, strategy, tmp_path):
    config, store = transfer(network, strategy, frozen_batch_norm=policy), Store(tmp_path)
    store.get_or_train(config, "", CPU)
    before, after = store.state(config.source), store.state(config)
    layers = batch_norms(build(network, 10, 0))
    assert layers
    for name in (name for name in before if name.rsplit(".", 1)[0] in layers):
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("network", "strategy", "line"),
    [
        ("tuple", "all", r"network = 'tuple': of 3 images and 2 classes it makes tuple; allowed"),
        ("tokens", "head", "strategy = 'head': token of the network belong to no part"),
        ("headless", "all", "strategy = 'all': it retrains head; the network has 0, 1"),
        ("bare", "all", "network = 'bare': it has no weights; allowed is a network to train"),
        ("lazy", "head", "network = 'lazy': head.weight has no shape yet; allowed are weights"),
        ("two_heads", "head", "network = 'two_heads': other.weight depends on the number of cl"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(network, strategy, line):
    with pytest.raises(ValueError, match=line) as caught:
        transfer(network, strategy)
    assert "\n" not in str(caught.value)


def test_a_network_for_images_of_another_size_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"network = 'viewing': it cannot take images \(N, 3, 8, 8\)"
    ):
        TrainingConfig(network="viewing", dataset="glyphs10", image_size=8, **SIZES)


def test_an_attack_names_a_network_that_does_not_answer_with_logits():
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the network answers with a tuple: allowed is a tensor"):
        PGD()(Tuple(3), images, labels)


class Gated(ResNet):
    """Looks at inverted images."""

    def forward(self, images):
        return super().forward(1 - images)


def changed(how: str) -> nn.Module:
    """A library's ResNet in eval mode of which one thing is not the library's."""
    model = Gated(8, 10, width=8) if how == "a subclass" else build("resnet8", 10, seed=0)
    if how == "a hook":
        model.stage2.register_forward_hook(lambda module, given, out: out.clamp(max=0.1))
    elif how == "a hook on what comes in":
        model.head.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    elif how == "another activation":
        model.stem[2] = nn.SiLU()
    elif how == "another head":
        model.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 10))
    elif how == "a head without bias":
        model.head = nn.Linear(32, 10, bias=False)
    elif how == "group norm":
        model.stage1[0].bn1 = nn.GroupNorm(4, 8)
    elif how == "statistics of the batch":
        model.stage1[0].bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    elif how == "batch norm without weights":
        model.stage1[0].bn1 = nn.BatchNorm2d(8, affine=False)
    elif how == "a parametrisation":
        weight_norm(model.stage1[0].conv1)
    elif how == "a forward of its own":
        forward = model.stage1.forward
        model.stage1.forward = lambda x: forward(x) * 0.5
    elif how == "another normalisation":
        model.normalise = nn.Sequential(Normalise(), nn.Tanh())
    elif how == "another padding":
        model.stage1[0].conv1.padding_mode = "reflect"
        model.stage1[0].conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    elif how == "a part in train mode":
        model.eval().stage1.train()
        return model
    return model.eval()


CHANGES = (
    *("a subclass", "a hook", "a hook on what comes in", "another activation", "another head"),
    *("a head without bias", "group norm", "statistics of the batch"),
    *("batch norm without weights", "a parametrisation", "a forward of its own"),
    *("another normalisation", "another padding", "a part in train mode"),
)


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_network_is_attacked_as_it_is(how):
    model = changed(how)
    assert folded(model) is model


def test_an_unchanged_network_is_folded():
    assert isinstance(folded(build("resnet8", 10, seed=0).eval()), FoldedResNet)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=str)
def test_attacks_work_where_gradients_are_off(context, batch):
    images, labels = batch
    model = build("resnet8", 10, seed=0).eval()
    expected, distance = PGD(steps=2)(model, images, labels), deepfool(model, images, labels, "l2")
    with context():
        inside = images.clone(), labels.clone()
        assert torch.equal(PGD(steps=2)(model, *inside), expected)
        torch.testing.assert_close(deepfool(model, *inside, "l2"), distance)
        assert torch.equal(PGD(steps=1, labels="predicted")(model, *inside),
                           PGD(steps=1, labels="predicted")(model, images, labels))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_never_leaves_the_ball(dtype, batch):
    images, labels = batch[0].to(dtype), batch[1]
    model = build("resnet8", 10, seed=0).eval().to(dtype)
    attack = PGD(steps=3)
    attacked = attack(model, images, labels)
    moved = (attacked.double() - images.double()).abs().max()
    assert attacked.dtype == dtype and attacked.min() >= 0 and attacked.max() <= 1
    assert 0.5 * attack.threat_model.epsilon < moved <= attack.threat_model.epsilon


class Dropping(Small):
    """Draws, in training, from PyTorch's own generator."""

    def forward(self, images):
        features = self.stage3(self.stem(images)).mean((2, 3))
        return self.head(nn.functional.dropout(features, 0.5, self.training))


def test_a_network_that_draws_is_the_same_every_time_also_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "dropping", Dropping)
    config = TrainingConfig(network="dropping", dataset="glyphs10", **SIZES | {"epochs": 2})
    made = []
    for name, stop in (("once", 9), ("twice", 9), ("killed", 0)):
        torch.manual_seed(len(made))  # whatever was drawn before
        store = Store(tmp_path / name)

        def interrupt(row, stop=stop):
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            store.get_or_train(config, "", CPU, interrupt)
        made.append(store.get_or_train(config, "", CPU).checksum)
    assert len(set(made)) == 1


class Outliers(Small):
    """Holds values that half precision cannot."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("mask", torch.full((1, classes), -1e9))
        self.register_buffer("small", torch.full((1, classes), 1e-9))

    def forward(self, images):
        return super().forward(images) + (self.mask + 1e9) + self.small


def test_what_half_precision_cannot_hold_is_stored_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "outliers", Outliers)
    config = TrainingConfig(network="outliers", dataset="glyphs10", **SIZES)
    store = Store(tmp_path)
    store.get_or_train(config, "", CPU)
    state = store.model(config).state_dict()
    assert torch.equal(state["mask"], torch.full((1, 10), -1e9))
    assert torch.equal(state["small"], torch.full((1, 10), 1e-9))
    stored = load_file(store.folder(config) / WEIGHTS)
    assert stored["stem.0.weight"].dtype == torch.float16


class Inverting(Small):
    def forward(self, images):
        return super().forward(1 - images)


def test_another_network_under_a_trained_ones_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", Small)
    config, store = TrainingConfig(network="mine", dataset="glyphs10", **SIZES), Store(tmp_path)
    store.get_or_train(config, "", CPU)
    monkeypatch.setitem(NETWORKS, "mine", Inverting)
    with pytest.raises(ValueError, match="network = 'mine': it is not the one that was trained"):
        store.get_or_train(config, "", CPU)
    monkeypatch.setitem(NETWORKS, "mine", Small)
    assert store.get_or_train(config, "", CPU).config == config


class KeepsEval(Small):
    """The usual way to keep batch norm in eval mode."""

    def train(self, mode=True):
        super().train(mode)
        self.stem[1].eval()
        return self


def test_a_networks_own_train_mode_is_left_as_it_is():
    model = train_mode_of(KeepsEval(10))
    assert not model.stem[1].training and model.stage3[1].training


def train_mode_of(model):
    train_mode(model)
    return model


def test_running_statistics_of_instance_norm_freeze_too():
    model = Small(10, norm=lambda: nn.InstanceNorm2d(8, track_running_stats=True))
    assert batch_norms(model) and not batch_norms(Small(10, norm=lambda: nn.InstanceNorm2d(8)))


class Rebinding(Small):
    """Its forward pass puts another tensor in the place of a buffer."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen = 0.9 * self.seen + images.detach().mean()
        return super().forward(images)


def test_an_attack_in_train_mode_leaves_even_rebound_statistics():
    model = Rebinding(10)
    PGD(steps=2, mode="train")(model, torch.rand(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    assert model.seen == 0


class Blind(Small):
    """Its images get no gradient."""

    def forward(self, images):
        return super().forward(images.detach())


class Deciding(Small):
    """Answers with a decision."""

    def forward(self, images):
        return nn.functional.one_hot(super().forward(images).argmax(1), 10)


@pytest.mark.parametrize("network", [Blind, Deciding])
def test_an_attack_names_a_network_without_a_gradient(network):
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    for attack in (PGD(), MarginPGD()):
        with pytest.raises(ValueError, match="answers have no gradient with respect to its images"):
            attack(network(10), images, labels)


def test_labels_beyond_the_logits_are_named():
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 10])
    for attack in (PGD(), lambda *batch: deepfool(*batch, norm="l2", steps=2)):
        with pytest.raises(ValueError, match=r"labels hold 10: allowed are 0 to 9"):
            attack(Small(10), images, labels)


def in_place(model, images, labels):
    labels += 1
    return images.mul_(0)


def usual(model, images, labels):
    """As tutorials write it; and it looks at the network's weights."""
    assert next(model.parameters()).device == images.device
    images = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(images), labels).backward()
    model.train()
    return (images + 0.03 * images.grad.sign()).clamp(0, 1)


def test_attacks_of_ones_own_change_nothing_but_their_own_images():
    model, images = build("resnet8", 10, 0).eval(), load("glyphs10", "test", 60)
    alone = accuracies.outcomes(model, images, {"pgd": PGD()}, {})
    beside = accuracies.outcomes(
        model, images, {"usual": usual, "in_place": in_place, "pgd": PGD()}, {}
    )
    assert all((alone[name] == beside[name]).all() for name in alone)
    assert torch.equal(load("glyphs10", "test", 60).labels, images.labels)


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (lambda model, x, y: x * torch.nan, r"wb_own: images \(60, 3, 16, 16\) in \[nan, nan\]"),
        (lambda model, x, y: x[:1], r"wb_own: images \(1, 3, 16, 16\) in .*; allowed are \(60,"),
        (lambda model, x, y: 3 * x, r"wb_own: images .*, [23].*\]; allowed are .* in \[0, 1\]"),
    ],
)
def test_what_an_attack_gives_back_are_images(attack, line):
    with pytest.raises(ValueError, match=line):
        accuracies.outcomes(
            build("resnet8", 10, 0), load("glyphs10", "test", 60), {"own": attack}, {}
        )


def test_logits_of_another_shape_are_refused():
    model = nn.Sequential(build("resnet8", 10, 0), nn.Unflatten(1, (10, 1, 1)))
    with pytest.raises(ValueError, match=r"logits have shape \(20, 10, 1, 1\): allowed is \(N, cl"):
        accuracies.outcomes(model, load("glyphs10", "test", 20), {}, {})
