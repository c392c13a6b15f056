import numpy as np
import pytest
import torch
from torch import nn

from robust_transfer.attacks import PGD, ThreatModel
from robust_transfer.data.images import Images
from robust_transfer.evaluation import single_image
from robust_transfer.presentation import figures


class Bright(nn.Module):
    """Two classes; the logit of the second is ``slope`` times the sum of the first two pixels."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images):
        bright = self.slope * images.flatten(1)[:, :2].sum(1)
        return torch.stack([torch.zeros_like(bright), bright], 1)


IMAGE = torch.full((1, 3, 4, 4), 0.5)
BRIGHT = torch.tensor([1])


def attack(epsilon: float) -> PGD:
    return PGD(threat_model=ThreatModel(epsilon=epsilon), steps=4, step_size=epsilon / 4)


def test_beliefs_are_the_probabilities_of_the_attacked_image():
    seen = {e: attack(e)(Bright(3.0), IMAGE, BRIGHT) for e in (0.0, 0.25)}
    table = single_image.beliefs(Bright(3.0), seen)
    assert table.index.tolist() == [0.0, 0.25]
    expected = torch.sigmoid(3.0 * torch.tensor([1.0, 0.5]))  # both pixels go down by epsilon
    assert table[1].tolist() == pytest.approx(expected.tolist())
    assert table.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_surface_rises_along_the_gradient_and_follows_the_given_direction_across():
    across = torch.zeros_like(IMAGE)
    across[0, 0, 0, 0] = 1  # raises the first pixel, and so the logit of the true class
    surface = single_image.loss_surface(Bright(), IMAGE, BRIGHT, across, reach=0.6, points=7)
    assert surface.offsets.tolist() == pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6], abs=1e-6)
    d = surface.offsets
    logit = 1 - 2 * d[None, :] + d[:, None]  # along the sign both pixels go down
    assert torch.allclose(surface.margin, logit, atol=1e-5)
    assert torch.allclose(surface.loss, torch.nn.functional.softplus(-logit), atol=1e-5)


def test_random_signs_are_signs_and_known_by_their_seed():
    signs = single_image.random_signs(torch.zeros(1, 3, 32, 32), 1)
    assert signs.abs().unique().tolist() == [1]
    assert signs.mean().abs() < 0.1
    assert torch.equal(signs, single_image.random_signs(torch.zeros(1, 3, 32, 32), 1))
    assert not torch.equal(signs, single_image.random_signs(torch.zeros(1, 3, 32, 32), 2))


def test_networks_are_seen_in_eval_mode_and_left_as_they_were(model, batch):
    images, labels = batch
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = images[:1], labels[:1]
    alone = single_image.gradients(model, *one)
    assert torch.allclose(alone, single_image.gradients(model, images, labels)[:1], atol=1e-6)
    single_image.loss_surface(model, *one, single_image.random_signs(one[0], 0), 0.1, points=3)
    single_image.beliefs(model, {0: one[0]})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_visible_shows_zero_as_grey_and_stretches_each_image():
    signed = torch.zeros(3, 3, 8, 8)
    signed[0, 0], signed[1, 1] = 1e-6, -4.0
    shown = single_image.visible(signed)
    assert shown[0, 0].unique().tolist() == [1] and shown[1, 1].unique().tolist() == [0]
    assert shown[0, 1:].unique().tolist() == [0.5] and shown[2].unique().tolist() == [0.5]


def test_alignment_is_1_for_the_image_and_small_for_noise():
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert single_image.alignment(images, 5 - 3 * images).tolist() == pytest.approx(
        [1] * 20, abs=1e-5
    )
    noise = single_image.alignment(images, single_image.random_signs(images, 0)).mean().item()
    assert noise == pytest.approx((2 / (torch.pi * images[0].numel())) ** 0.5, rel=0.4)


def test_figures_leave_out_unlikely_classes_and_draw_the_boundary_where_there_is_one():
    panels = {"R<sub>nat</sub>": single_image.beliefs(Bright(9), {0: IMAGE})}
    figure = figures.beliefs(panels, ["dark", "bright"], 1, "ε")
    assert [line.get_label() for line in figure.axes[0].lines] == ["bright (truth)"]
    across = torch.zeros_like(IMAGE)
    surfaces = {
        str(reach): single_image.loss_surface(Bright(), IMAGE, BRIGHT, across, reach, points=5)
        for reach in (0.1, 0.9)
    }
    inside, crossed, _ = figures.surfaces(surfaces).axes
    assert len(crossed.collections) == len(inside.collections) + 1


def test_every_network_is_attacked_in_turn_and_all_answer_what_a_picture_file_holds():
    images = Images.of(torch.full((1, 3, 4, 4), 128, dtype=torch.uint8), BRIGHT)
    models = {"up": Bright(3.0), "down": Bright(-3.0)}
    shown = single_image.shown_to_all(models, images, {("fgsm", 0.1): attack(0.1)})["fgsm", 0.1]
    for name, moved in (("up", -26), ("down", 26)):  # 25.5, rounded to whole levels
        pixels = shown[name].pixels
        assert abs(pixels[0].flatten()[0].item() - (128 + moved)) <= 1
        assert pixels[0].flatten()[2].item() == 128
        brightness = pixels.flatten()[:2].sum().item() / 255
        for other, slope in (("up", 3.0), ("down", -3.0)):
            label, sure = shown[name].answers[other]
            assert label.item() == (slope > 0)
            assert sure.item() == pytest.approx(
                1 / (1 + np.exp(-abs(slope) * brightness)), abs=1e-5
            )
