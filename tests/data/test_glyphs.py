"""The embedded tasks are the same everywhere and hold the two cues that they promise."""

import numpy as np
import pytest

from robust_transfer.attacks import EPSILON
from robust_transfer.data import glyphs

EVERY = [(task, split) for task in glyphs.TASKS for split in glyphs.SPLITS]


def dice(count):
    return iter(np.random.default_rng(0).random((count, 32)).T[..., None, None])


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_images_and_labels_have_the_promised_types(task, split):
    images, labels = glyphs.draw(task, split, 33)
    assert images.shape == (33, 3, 16, 16) and images.dtype == np.uint8
    assert labels.shape == (33,) and labels.dtype == np.int64


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_a_longer_draw_begins_with_the_shorter_one(task, split):
    short, long = glyphs.draw(task, split, 41), glyphs.draw(task, split, 150)
    for a, b in zip(short, long, strict=True):
        assert np.array_equal(a, b[:41])


@pytest.mark.parametrize(("task", "classes"), glyphs.TASKS.items())
def test_classes_are_balanced_in_every_prefix(task, classes):
    labels = glyphs.draw(task, "train", 7 * classes + 3)[1]
    assert set(np.bincount(labels[: 7 * classes])) == {7}
    assert np.ptp(np.bincount(labels)) == 1


def test_no_image_is_drawn_twice():
    images = np.concatenate([glyphs.draw(task, split, 200)[0] for task, split in EVERY])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_glyphs_are_symmetric_and_all_different():
    stencils = glyphs.stencils()
    used = [name for names in glyphs.GLYPHS.values() for name in names]
    assert sorted(used) == sorted(stencils)
    for name, stencil in stencils.items():
        assert np.array_equal(stencil, stencil[:, ::-1]), name
    assert len({stencil.tobytes() for stencil in stencils.values()}) == len(used)


def test_every_class_has_a_grating_of_its_own():
    index = [glyphs.FIRST[t] + c for t, classes in glyphs.TASKS.items() for c in range(classes)]
    pairs = {(k % len(glyphs.FREQUENCIES), k % len(glyphs.COLOURS)) for k in index}
    assert len(pairs) == len(index) == 30


def test_gratings_stay_below_epsilon_but_never_vanish():
    heights = abs(glyphs.gratings(np.arange(30).repeat(20), dice(600))).max((1, 2, 3))
    assert heights.max() < EPSILON
    assert heights.min() > glyphs.AMPLITUDE / 4


@pytest.mark.parametrize("task", glyphs.TASKS)
def test_most_glyphs_stand_far_above_epsilon(task):
    labels = np.arange(600) % glyphs.TASKS[task]
    heights = glyphs.glyphs(task, labels, dice(600)).max((1, 2, 3))
    assert (heights > 2 * EPSILON).mean() > 0.9


@pytest.mark.parametrize(("task", "classes"), glyphs.TASKS.items())
def test_class_names_tell_tint_and_glyph_in_the_order_of_the_labels(task, classes):
    names = [name.split() for name in glyphs.class_names(task)]
    assert len(names) == classes
    for label, (tint, glyph) in enumerate(names):
        assert glyph == glyphs.GLYPHS[task][label // 2]
        red, _, blue = glyphs.TINTS[label % 2]
        assert tint == ("warm" if red > blue else "cool")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("glyphs30", "train", 5), "task = 'glyphs30': allowed are glyphs10, glyphs20"),
        (("glyphs10", "validation", 5), "split = 'validation': allowed are test, train"),
        (("glyphs10", "train", 0), "count = 0: allowed are whole numbers from 1"),
    ],
)
def test_errors_name_the_parameter_and_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        glyphs.draw(*arguments)
