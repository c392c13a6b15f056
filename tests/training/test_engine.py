"""To an attack a folded network is the network itself, and a replayed step is the step."""

import copy
import os
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from robust_transfer.attacks import EPSILON, PGD, fgsm, input_gradient
from robust_transfer.data import glyphs
from robust_transfer.networks.registry import build
from robust_transfer.training import engine
from robust_transfer.training.engine import Replay, cores, folded
from robust_transfer.training.loop import Step, initial_model, load_data, train_epoch


def lived_in(network, seed=1):
    """A network in eval mode whose batch norms do something, each channel its own."""
    model, generator = build(network, 10, seed), Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.3, generator=generator)
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def noise(count, size=16):
    images = torch.rand(count, 3, size, size, generator=Generator().manual_seed(2))
    return images, torch.arange(count) % 10


def logits_and_gradient(model, images, labels):
    with torch.no_grad():
        return model(images), input_gradient(model, images, labels)


def exact(model, images, labels):
    """Logits and input gradient in float64."""
    images = images.double().requires_grad_(True)
    logits = copy.deepcopy(model).double()(images)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return logits.detach(), torch.autograd.grad(loss, images)[0]


def error(found, expected):
    """Largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def same_signs(found, expected):
    return (found.sign() == expected.sign()).double().mean().item()


every_size = pytest.mark.parametrize("size", [15, 16, 17, 32])
every_depth = pytest.mark.parametrize("network", ["resnet8", "resnet20"])


@every_size
@every_depth
def test_a_folded_network_has_the_networks_logits_and_input_gradient(network, size):
    model, (images, labels) = lived_in(network), noise(16, size)
    logits, gradient = logits_and_gradient(folded(model), images, labels)
    expected_logits, expected = exact(model, images, labels)
    assert logits.dtype == gradient.dtype == torch.float32
    assert error(logits, expected_logits) < 1e-5
    # where rounding moves a neuron over the kink of its ReLU, one image's gradient jumps
    errors = (gradient - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert errors.median() < 1e-5
    assert (gradient - expected).norm() < 0.02 * expected.norm()
    assert same_signs(gradient, expected) > 0.999


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_batches_of_any_size_and_layout_fold_alike(count, layout):
    model, (images, labels) = lived_in("resnet8"), noise(count)
    given = images.to(memory_format=layout)
    logits, gradient = logits_and_gradient(folded(model), given, labels)
    expected_logits, expected = exact(model, images, labels)
    assert error(logits, expected_logits) < 1e-5
    assert error(gradient, expected) < 1e-5


@every_depth
def test_bf16_comes_as_near_as_autocast_does(network):
    model, (images, labels) = lived_in(network), noise(32)
    half = folded(model, "bf16")
    outside = logits_and_gradient(half, images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        within = logits_and_gradient(half, images, labels)
        usual_logits, usual = logits_and_gradient(model, images, labels)
    expected_logits, expected = exact(model, images, labels)
    for logits, gradient in (outside, within):
        assert logits.dtype == gradient.dtype == torch.float32
        assert 1e-4 < error(logits, expected_logits) < 1.5 * error(usual_logits, expected_logits)
        assert same_signs(usual, expected) - 0.01 < same_signs(gradient, expected) < 0.999
    assert torch.equal(outside[0], within[0])


A100, BF16 = (8, 0), torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype", "channels", "cuda", "capability", "taken"),
    [
        ("cuda", BF16, 16, "13.0", A100, True),
        ("cuda", BF16, 3, "13.0", A100, False),  # the stem
        ("cuda", torch.float32, 16, "13.0", A100, False),
        ("cuda", BF16, 16, "13.0", (7, 5), False),  # before bf16
        ("cuda", BF16, 16, None, A100, False),  # AMD's
        ("cpu", BF16, 16, "13.0", A100, False),
    ],
)
def test_cudnn_takes_bf16_beyond_the_stem(
    monkeypatch, device, dtype, channels, cuda, capability, taken
):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    x = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(2, channels, 8, 8))
    assert engine._cudnn_takes(x) is taken


@pytest.mark.parametrize("shortcut", [False, True])
def test_what_cudnn_takes_is_asked_of_it(monkeypatch, shortcut):
    """Here, without a GPU, PyTorch reads the arguments and then finds no kernel."""
    monkeypatch.setattr(engine, "_one_dnn_takes", lambda x: False)
    monkeypatch.setattr(engine, "_cudnn_takes", lambda x: x.shape[1] % 8 == 0)
    block = folded(lived_in("resnet8"), "bf16").blocks[0]
    x = torch.rand(2, 16, 8, 8, dtype=BF16).to(memory_format=torch.channels_last)
    asked = "cudnn_convolution_add_relu" if shortcut else "cudnn_convolution_relu"
    with pytest.raises(NotImplementedError, match=f"'aten::{asked}'"):
        block.conv1.relu(x, x if shortcut else None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@every_depth
@pytest.mark.parametrize("size", [15, 32])
def test_fused_in_cudnn_a_network_has_the_logits_and_gradient_that_it_has_unfused(
    monkeypatch, network, size
):
    asked = []
    for name in ("cudnn_convolution_relu", "cudnn_convolution_add_relu"):
        fused = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *given, fused=fused, name=name: asked.append(name) or fused(*given)
        )
    model, (images, labels) = lived_in(network), noise(32, size)
    expected_logits, expected = exact(model, images, labels)
    half = folded(model.cuda(), "bf16")
    found = {}
    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(engine, "_cudnn_takes", lambda x: False)
        logits, gradient = logits_and_gradient(half, images.cuda(), labels.cuda())
        found[taken] = logits.cpu(), gradient.cpu()
        assert len(asked) == 2 * 2 * len(half.blocks)  # two passes, two convolutions a block
    for logits, gradient in found.values():
        assert error(logits, expected_logits) < 1.5 * error(found[False][0], expected_logits)
        assert same_signs(gradient, expected) > same_signs(found[False][1], expected) - 0.01
    assert error(found[True][0], found[False][0]) < 0.05


ATTACKS = {
    "fgsm": fgsm(),
    "fgsm on predicted labels": fgsm(labels="predicted"),
    "pgd": PGD(),
    "pgd from a random start": PGD(random_start=True),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_a_folded_network_make_the_same_images(attack):
    model, (pixels, labels) = lived_in("resnet8"), glyphs.draw("glyphs10", "train", 64)
    images, labels = torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels)
    made, expected = (
        attack(target, images, labels, Generator().manual_seed(0))
        for target in (folded(model), model)
    )
    assert (made != expected).float().mean() < 0.001
    assert (made - images).abs().mean() > EPSILON / 2


def test_seven_steps_against_a_deeper_network_part_on_few_images():
    model, (pixels, labels) = lived_in("resnet20"), glyphs.draw("glyphs10", "train", 64)
    images, labels = torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels)
    made, expected = (PGD()(target, images, labels) for target in (folded(model), model))
    # float64 parts from float32 on as many: once a sign differs, the ways do
    assert (made != expected).flatten(1).any(1).float().mean() < 0.15


def test_folding_and_attacking_leave_the_network_untouched():
    model, (images, labels) = lived_in("resnet8"), noise(8)
    model.stage1.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    needs = [p.requires_grad for p in model.parameters()]
    target = folded(model)
    PGD(steps=2)(target, images, labels)
    F.cross_entropy(target(images.requires_grad_(True)), labels).backward()
    assert images.grad.any()
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == needs
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", ["stem", "stage1", "stage2", "stage3", "head"])
def test_a_folded_network_keeps_the_weights_and_statistics_it_was_folded_from(part, precision):
    model, (images, _) = lived_in("resnet8"), noise(8)
    target = folded(model, precision)
    before = target(images)
    state = model.get_submodule(part).state_dict()
    for name in (n for n in state if "num_batches" not in n):
        was = state[name].clone()
        state[name].mul_(1.5)
        assert torch.equal(target(images), before), name
        assert error(folded(model, precision)(images), before) > 1e-3, name
        state[name].copy_(was)


PLAIN_PROCESSOR = """
import torch
from robust_transfer.attacks import input_gradient
from robust_transfer.training.engine import folded
from robust_transfer.networks.registry import build

model = build("resnet8", 10, 1).eval()
images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
for precision in ("fp32", "bf16"):
    assert input_gradient(folded(model, precision), images, labels).abs().sum() > 0
"""


def test_processors_without_bf16_instructions_fold_too():
    plain = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", PLAIN_PROCESSOR]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CLEARED_PAGES = """
import resource
import torch
from robust_transfer.workers import keep_memory

keep_memory()
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers = [torch.ones(2**20) for _ in range(40)]
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_cleared_again():
    command = [sys.executable, "-c", CLEARED_PAGES]
    cleared = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert cleared < 0.1 * 40 * 2**22 / resource.getpagesize()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="another system")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


BACKBONES = {"imagenet_efficientnet_lite0": 49, "imagenet_resnet50": 5, "imagenet_densenet121": 1}
"""Networks of paper B, with how many convolutions of their sequences have a batch norm after."""
LITE = "imagenet_efficientnet_lite0"


def a_backbone(name=LITE):
    """A lived-in backbone; of some a package is needed, which not everyone has."""
    if name == LITE:
        pytest.importorskip("efficientnet_lite_pytorch")
    return lived_in(name)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_folded_backbone_has_the_networks_logits_and_input_gradient(name):
    model, (images, labels) = a_backbone(name), noise(2, 32)
    target = folded(model)
    assert target is not model
    folds = [m for m in target.modules() if isinstance(m, nn.Identity)]
    kept = [m for m in model.modules() if isinstance(m, nn.Identity)]
    assert len(folds) - len(kept) == BACKBONES[name]
    logits, gradient = logits_and_gradient(target, images, labels)
    expected_logits, expected = exact(model, images, labels)
    assert error(logits, expected_logits) < 1e-4
    errors = (gradient - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert errors.median() < 1e-3 and same_signs(gradient, expected) > 0.999


def test_folding_a_backbone_leaves_it_untouched():
    model, (images, labels) = a_backbone(), noise(2, 32)
    model.stage1.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    needs = [p.requires_grad for p in model.parameters()]
    places, kinds = ([f(m) for m in model.modules()] for f in (id, type))
    target = folded(model)
    F.cross_entropy(target(images.requires_grad_(True)), labels).backward()
    assert images.grad.any()
    assert all(p.grad is None for m in (model, target) for p in m.parameters())
    assert [p.requires_grad for p in model.parameters()] == needs and not all(needs)
    assert not any(p.requires_grad for p in target.parameters())
    assert [id(m) for m in model.modules()] == places
    assert [type(m) for m in model.modules()] == kinds
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_folded_backbone_keeps_the_statistics_it_was_folded_from():
    model, (images, _) = a_backbone(), noise(2, 32)
    target = folded(model)
    before = target(images)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.add_(0.1)
    assert torch.equal(target(images), before)
    assert error(folded(model)(images), before) > 1e-3


def test_a_backbone_in_bf16_comes_as_near_as_autocast_does():
    model, (images, labels) = a_backbone(), noise(8, 32)
    half = folded(model, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradient = logits_and_gradient(half, images, labels)
        usual_logits, usual = logits_and_gradient(model, images, labels)
    expected_logits, expected = exact(model, images, labels)
    assert gradient.dtype == torch.float32
    assert 1e-4 < error(logits, expected_logits) < 1.5 * error(usual_logits, expected_logits)
    assert same_signs(usual, expected) - 0.02 < same_signs(gradient, expected) < 0.999


def hooked(model):
    model.stage2[0].register_forward_hook(lambda module, given, found: 2 * found)
    return model


def replaced(model):
    model.stage2[0].forward = lambda x: x
    return model


def partly_training(model):
    model.stage1[0].train()
    return model


OTHERS = {
    "a hooked backbone": lambda: hooked(a_backbone()),
    "a backbone with a replaced forward": lambda: replaced(a_backbone()),
    "a backbone in train mode": lambda: a_backbone().train(),
    "a backbone partly in train mode": lambda: partly_training(a_backbone()),
    "a transformer": lambda: build("vit6", 10, seed=0).eval(),
    "a backbone without batch norm after convolutions": lambda: lived_in("densenet40"),
    "a densenet": lambda: build("densenet14", 10, seed=0).eval(),
    "any module": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)).eval(),
    "a network in train mode": lambda: build("resnet8", 10, seed=0),
    "a folded network": lambda: folded(lived_in("resnet8")),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_everything_else_is_returned_as_it_is(make, precision):
    model = make()
    assert folded(model, precision) is model


def test_before_it_records_a_replay_calls_the_function_and_for_other_shapes_always():
    sizes = []

    def double(batch):
        sizes.append(len(batch))
        return 2 * batch

    replay = Replay(double, Generator())
    for size in (4, 4, 2, 2, 3):  # three to warm up, then what no graph of fours can do
        batch = torch.rand(size)
        assert torch.equal(replay(batch), 2 * batch)
    assert sizes == [4, 4, 2, 2, 3] and replay.graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize(
    ("precision", "losses_off", "head_off"), [("fp32", 1e-3, 1e-4), ("bf16", 3e-3, 1e-3)]
)
def test_a_replayed_training_is_the_plain_one_to_rounding(
    tiny, monkeypatch, precision, losses_off, head_off
):
    # First weights that are 1e-7 off move the losses of this training by 3e-5 and the head by 5e-7
    # in fp32, by 2e-3 and 4e-4 in bf16. A graph that repeats its random numbers moves them by 4e-3
    # and 2e-3, its learning rate by 5e-2 and 4e-2, its folded network by 6e-2 and 4e-4.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = tiny(
        attack=PGD(steps=2, random_start=True), train_size=112, epochs=3, precision=precision,
        schedule="one_cycle", learning_rate=0.01,
    )  # fmt: skip
    images = load_data(config, "")[0].to(torch.device("cuda"))  # batches of 32, 32, 32 and 16

    def trained(replayed):
        step = Step(initial_model(config, None).to("cuda"), config)
        if not replayed:
            step._run = step._step
        losses = [train_epoch(step, images, epoch) for epoch in range(config.epochs)]
        assert not replayed or step._run.graph is not None
        return losses, step.model.head.weight

    (losses, head), (expected, plain) = trained(True), trained(False)
    assert losses == pytest.approx(expected, rel=losses_off)
    torch.testing.assert_close(head, plain, rtol=0, atol=head_off)
