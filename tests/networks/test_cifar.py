"""Networks have the papers' sizes and shapes, and are the same for the same seed."""

import pytest
import torch
from torch import nn

from robust_transfer.networks.cifar import BasicBlock
from robust_transfer.networks.registry import NETWORKS, build, outline


def weights(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("network", "classes", "count"),
    [("resnet56", 10, 853_018), ("resnet56", 100, 858_868), ("densenet121", 10, 1_000_618)],
)
def test_the_papers_networks_have_their_number_of_weights(network, classes, count):
    assert weights(build(network, classes, seed=0)) == count


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_a_resnet_is_as_deep_as_its_name_says(depth):
    model = build(f"resnet{depth}", 10, seed=0)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == depth


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_maps_images_to_logits(network, size):
    model = build(network, 7, seed=0).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, size, size)).shape == (2, 7)


def test_resnet_halves_the_image_and_doubles_the_channels_twice():
    model, shapes = build("resnet20", 10, seed=0).eval(), []
    for stage in (model.stem, model.stage1, model.stage2, model.stage3):
        stage.register_forward_hook(lambda *call: shapes.append(tuple(call[-1].shape[1:])))
    model(torch.rand(1, 3, 32, 32))
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_shortcut_has_no_weights_and_pads_new_channels_with_zeros():
    block = BasicBlock(4, 8, stride=2).eval()
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {
        *("conv1", "bn1", "conv2", "bn2")
    }
    nn.init.zeros_(block.bn2.weight)  # only the shortcut is left
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any() and not out[:, 6:].any()


@pytest.mark.parametrize("network", ["resnet8", "densenet14", "densenet40", "vit6"])
def test_the_seed_decides_the_weights(network):
    first, same, other = (build(network, 10, seed) for seed in (3, 3, 4))
    for (name, a), b in zip(first.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("network", ["resnet8", "vit6"])
def test_building_leaves_the_global_generator_alone(network):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(network, 10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", ["resnet8", "densenet14", "densenet40"])
def test_images_are_normalised_inside_the_network(network):
    model, seen = build(network, 10, seed=0), []
    model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(4, 3, 16, 16)
    images[0], images[1] = 0, 1
    model(images)
    assert (seen[0][0] == -1).all() and (seen[0][1] == 1).all()
    torch.testing.assert_close(seen[0], 2 * images - 1)


def test_scratch_weights_are_kaiming_normal():
    model = build("resnet56", 100, seed=0)
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    for weight in (*kernels, model.head.weight):
        deviation = (2 / weight[0].numel()) ** 0.5
        assert weight.std().item() == pytest.approx(deviation, rel=0.2)
        assert abs(weight.mean().item()) < 0.2 * deviation
    assert model.head.weight.abs().max() > 2 * (2 / 64) ** 0.5  # normal, not uniform


@pytest.mark.parametrize("network", ["resnet8", "densenet14", "densenet40", "vit6"])
def test_parts_are_those_of_the_network_that_is_built(network):
    before = torch.get_rng_state()
    named = [name for name, _ in outline(network).named_children()]
    assert torch.equal(torch.get_rng_state(), before)
    assert named == [name for name, _ in build(network, 10, seed=0).named_children()]


def test_an_unknown_network_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"network = 'resnet57': allowed are .*resnet56"):
        build("resnet57", 10, seed=0)
    with pytest.raises(ValueError, match=r"^network = 'resnet57': allowed are "):
        outline("resnet57")
