"""Gradient flow and movement of a transfer are measured once, of its weights and its source's."""

import pytest
import torch

from robust_transfer.evaluation import layers
from robust_transfer.files import write_sealed
from robust_transfer.training.loop import initial_model, load_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def moved(trained, tiny, family):
    config = tiny(name="moved", source=family["source"], strategy="all", epochs=1)
    trained.get_or_train(config, "", CPU)
    return config


def test_frozen_parts_have_a_gradient_but_do_not_move(trained, family):
    found = layers.get_or_measure(trained, family["transfer"], "", CPU)
    assert found.index.to_list() == ["stem", "stage1", "stage2", "stage3", "head"]
    assert (found["gradient"] > 0).all()
    assert (found["moved"][:-1] == 0).all() and found["moved"]["head"] > 0


def test_flow_is_taken_before_the_first_step_and_distance_after_the_last(trained, moved):
    found = layers.get_or_measure(trained, moved, "", CPU)
    begin = initial_model(moved, trained.state(moved.source))
    images, _ = load_data(moved, "")
    pixels, labels = next(images.batches(layers.IMAGES))
    expected = layers.gradient_flow(begin, pixels, labels)
    assert found["gradient"].to_dict() == pytest.approx(expected, rel=1e-4)
    state, head = trained.state(moved), begin.head
    start = torch.cat([head.weight.flatten(), head.bias]).detach()
    end = torch.cat([state["head.weight"].flatten(), state["head.bias"]])
    distance = (end - start).norm() / start.norm()
    assert found["moved"]["head"] == pytest.approx(distance.item(), rel=1e-4)


def test_a_second_look_reads_what_is_stored(trained, moved, monkeypatch):
    first = layers.get_or_measure(trained, moved, "", CPU)
    monkeypatch.setattr(layers, "gradient_flow", None)
    assert layers.get_or_measure(trained, moved, "", CPU).equals(first)


@pytest.mark.parametrize("end", ["source", "weights"])
def test_what_was_measured_of_other_weights_is_measured_anew(trained, moved, end):
    first = layers.get_or_measure(trained, moved, "", CPU)
    path = trained.folder(moved) / layers.NAME
    content = trained.read_sealed(path)
    write_sealed(path, content | {end: "other", "moved": dict.fromkeys(first.index, 0.0)})
    assert layers.get_or_measure(trained, moved, "", CPU).equals(first)
