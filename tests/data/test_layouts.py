"""Every layout is read whole, in its order, or the error says in one line what is wrong with it."""

import hashlib
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import torchvision
from pictures import drawn, write_image, write_shard

from robust_transfer.data import glyphs, kept, layouts
from robust_transfer.data.registry import DATASETS, load
from robust_transfer.training.loop import TrainingConfig, images_at_hand


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(kept, "LEAST", 2**40)


def refused(error, message, *arguments):
    """Check that an error, raised on loading, has one line that starts with ``message``."""
    with pytest.raises(error, match=f"^{message}") as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


# Parquet shards and torchvision's CIFAR.


@pytest.fixture
def folder(tmp_path):
    """A data_dir with CIFAR-10's training split in three shards of four images."""
    images = drawn(12)
    for k in range(3):
        part = slice(4 * k, 4 * k + 4)
        shard = tmp_path / "cifar10" / f"train-{k:05d}-of-00003.parquet"
        write_shard(shard, images[part], [label % 10 for label in range(12)][part])
    return SimpleNamespace(path=tmp_path, shards=sorted(tmp_path.rglob("*.parquet")), images=images)


@pytest.mark.parametrize("count", [1, 4, 6, 12])
def test_parquet_shards_are_read_in_order(folder, count):
    loaded = load("cifar10", "train", count, str(folder.path))
    assert np.array_equal(loaded.pixels.numpy().transpose(0, 2, 3, 1), folder.images[:count])
    assert loaded.pixels.dtype == torch.uint8 and loaded.labels.dtype == torch.int64
    assert loaded.labels.tolist() == [label % 10 for label in range(count)]


def test_cifar100_is_labelled_by_its_fine_labels(tmp_path):
    shard = tmp_path / "cifar100" / "test-00000-of-00001.parquet"
    write_shard(shard, drawn(3), [99, 5, 42], ("img", "fine_label"))
    assert load("cifar100", "test", 3, str(tmp_path)).labels.tolist() == [99, 5, 42]


@pytest.mark.parametrize(
    ("name", "split", "stem", "side", "labels"),
    [
        ("tiny_imagenet100", "train", "train", 64, [3, 99, 0]),
        ("tiny_imagenet100", "test", "valid", 64, [98, 1, 2]),
        ("chest_xray8", "train", "train", 224, [1, 0, 1]),
        ("chest_xray8", "test", "test", 224, [0, 0, 1]),
    ],
)
def test_grey_images_in_parquet_get_three_equal_channels(tmp_path, name, split, stem, side, labels):
    grey = drawn(3, side)[..., 0]
    shard = tmp_path / name / f"{stem}-00000-of-00001.parquet"
    write_shard(shard, grey, labels, ("image", "label"))
    loaded = load(name, split, 3, str(tmp_path))
    assert np.array_equal(loaded.pixels, np.repeat(grey[:, None], 3, 1))
    assert loaded.labels.tolist() == labels and loaded.labels.dtype == torch.int64


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_shard_is_named(folder, missing):
    folder.shards[missing].unlink()
    message = f".*/cifar10: shard {missing} of cifar10 train is missing"
    refused(FileNotFoundError, message, "cifar10", "train", 12, str(folder.path))


def test_a_missing_last_shard_is_noticed(folder):
    folder.shards[2].unlink()
    message = ".*/cifar10: 12 train images wanted, 8 found; a shard is missing"
    refused(FileNotFoundError, message, "cifar10", "train", 12, str(folder.path))


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-100])


def garble(shard):
    write_shard(shard, drawn(4), [0] * 4)
    table = parquet.read_table(shard)
    cells = [{"bytes": b"not a picture", "path": ""}] * 4
    parquet.write_table(table.set_column(0, "img", pa.array(cells)), shard)


def rename_column(shard):
    write_shard(shard, drawn(4), [0] * 4, ("img", "category"))


@pytest.mark.parametrize("damage", [truncate, garble, rename_column])
def test_a_damaged_shard_is_named(folder, damage):
    damage(folder.shards[1])
    message = ".*train-00001-of-00003.parquet: not a readable cifar10 file, copy it anew"
    refused(OSError, message, "cifar10", "train", 12, str(folder.path))


def test_labels_of_another_data_set_are_refused(tmp_path):
    shard = tmp_path / "tiny_imagenet100" / "valid-00000-of-00001.parquet"
    write_shard(shard, drawn(2), [0, 100], ("image", "label"))
    message = "tiny_imagenet100 test: labels from 0 to 100; allowed are 0 to 99"
    refused(ValueError, message, "tiny_imagenet100", "test", 2, str(tmp_path))


def test_a_folder_without_data_is_named_when_there_is_no_network(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    message = f"data_dir = '{tmp_path}': no cifar10/train-.*no network"
    refused(FileNotFoundError, message, "cifar10", "train", 5, str(tmp_path))


def test_torchvisions_own_download_is_found(tmp_path, monkeypatch):
    images, listed = drawn(6), {}
    flat = images.transpose(0, 3, 1, 2).reshape(6, -1)
    contents = {
        "data_batch_1": {"data": flat, "labels": [3, 1, 4, 1, 5, 9]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in contents.items():
        pickled = pickle.dumps(content)
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickled)
        listed[name] = hashlib.md5(pickled).hexdigest()
    cifar10, meta = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR10.meta
    monkeypatch.setattr(cifar10, "train_list", [["data_batch_1", listed["data_batch_1"]]])
    monkeypatch.setattr(cifar10, "test_list", [])
    monkeypatch.setattr(cifar10, "meta", meta | {"md5": listed["batches.meta"]})
    loaded = load("cifar10", "train", 4, str(tmp_path))
    assert np.array_equal(loaded.pixels.numpy().transpose(0, 2, 3, 1), images[:4])
    assert loaded.labels.tolist() == [3, 1, 4, 1]


def test_a_split_is_at_hand_if_it_needs_no_download(tmp_path):
    cifar10 = DATASETS["cifar10"]
    assert not cifar10.at_hand("test", str(tmp_path))
    write_shard(tmp_path / "cifar10" / "test-00000-of-00001.parquet", drawn(2), [0, 1])
    assert cifar10.at_hand("test", str(tmp_path)) and not cifar10.at_hand("train", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no cifar10$"):  # a check downloads nothing
        images_at_hand(TrainingConfig(), str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert cifar10.at_hand("train", str(tmp_path))


# Embedded tasks.


def test_embedded_tasks_need_no_folder():
    loaded = load("glyphs20", "test", 50)
    pixels, labels = glyphs.draw("glyphs20", "test", 50)
    assert np.array_equal(loaded.pixels, pixels) and np.array_equal(loaded.labels, labels)


# Class folders.


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """A data_dir with 100 class folders: 3 or 4 training images of each, and 1 validation image.

    Every image has one colour, whose red is the label and whose green is a number in the class.
    """
    root = tmp_path_factory.mktemp("data") / "imagenet_subset"
    for label in range(100):
        for split, count in (("train", 3 + label % 2), ("val", 1)):
            for number in range(count):
                image = np.full((4, 4, 3), (label, number, 7), np.uint8)
                write_image(root / split / f"n{label:08d}" / f"{number}.png", image)
    return root.parent


@pytest.fixture
def damaged_folders(class_folders, tmp_path):
    """A copy of the class folders that a test may damage."""
    return shutil.copytree(class_folders, tmp_path / "data")


def test_classes_are_folders_and_take_turns(class_folders):
    images = load("imagenet_subset", "train", 350, str(class_folders), 1)
    labels, numbers = images.pixels[:, 0, 0, 0], images.pixels[:, 1, 0, 0]
    assert torch.equal(labels.long(), images.labels)
    assert set(zip(labels.tolist(), numbers.tolist(), strict=True)) == {
        (label, number) for label in range(100) for number in range(3 + label % 2)
    }
    for turn in range(3):
        assert sorted(images.labels[100 * turn :][:100].tolist()) == list(range(100))
    assert images.labels[:100].tolist() != sorted(images.labels[:100].tolist())
    assert len(set(numbers[:100].tolist())) > 1  # not the first file of every class


def test_a_prefix_of_class_folders_is_the_same_in_every_call(class_folders):
    images = load("imagenet_subset", "train", 350, str(class_folders), 1)
    first = load("imagenet_subset", "train", 120, str(class_folders), 1)
    assert first.fingerprint == images.first(120).fingerprint


def test_validation_images_are_the_test_split_in_the_papers_size(class_folders):
    images = load("imagenet_subset", "test", 100, str(class_folders))
    assert images.pixels.shape == (100, 3, 224, 224)
    assert sorted(images.labels.tolist()) == list(range(100))


@pytest.mark.parametrize("count", [0, 351])
def test_class_folders_say_how_many_images_they_have(class_folders, count):
    message = f"count = {count}: imagenet_subset train has 1 to 350 images"
    refused(ValueError, message, "imagenet_subset", "train", count, str(class_folders))


def test_another_number_of_class_folders_is_refused(damaged_folders):
    shutil.rmtree(damaged_folders / "imagenet_subset/train/n00000042")
    message = f"data_dir = '{damaged_folders}': imagenet_subset/train has 99 class folders; "
    arguments = ("imagenet_subset", "train", 5, str(damaged_folders))
    refused(ValueError, message + "allowed are 100", *arguments)


def test_an_empty_class_folder_is_named(damaged_folders):
    (damaged_folders / "imagenet_subset/val/n00000042/0.png").unlink()
    message = "data_dir = .* no valid file for the classes n00000042"
    refused(FileNotFoundError, message, "imagenet_subset", "test", 5, str(damaged_folders))


def test_a_truncated_image_file_is_named(damaged_folders):
    file = damaged_folders / "imagenet_subset/val/n00000042/0.png"
    file.write_bytes(file.read_bytes()[:30])
    message = f"{file}: not a readable imagenet_subset file, copy it anew"
    refused(OSError, message, "imagenet_subset", "test", 100, str(damaged_folders))


# Divisions by patient.

SIZES = {"train": 50, "test": 30}
FOLDS = 4


@pytest.fixture(scope="module")
def xrays():
    """80 images of 32 patients, one to four of each, in two splits that share patients.

    The first pixel of an image is its place. Of every image: its name, and its label.
    """
    rng = np.random.default_rng(1)
    patients = rng.permutation(np.repeat(range(32), [4] * 8 + [3] * 8 + [2] * 8 + [1] * 8))
    numbers = pd.Series(patients).groupby(patients).cumcount()
    names = [f"{p:08d}_{n:03d}.png" for p, n in zip(patients, numbers, strict=True)]
    return names, (rng.random(80) < 0.5).astype(int).tolist()


@pytest.fixture
def divided(tmp_path, monkeypatch):
    """Write such images, by these names, as the data set ``own`` with its folds; its folder."""
    whole = layouts.Parquet(name="own", class_names=["a", "b"], side=4, sizes=SIZES)

    def write(names, labels):
        images = np.zeros((80, 4, 4, 3), np.uint8)
        images[:, 0, 0, 0] = range(80)
        for split, part in (("train", slice(0, 50)), ("test", slice(50, 80))):
            shard = tmp_path / "own" / f"{split}-00000-of-00001.parquet"
            write_shard(shard, images[part], labels[part], ("image", "label"), names[part])
        return str(tmp_path)

    for fold in range(FOLDS):
        division = layouts.PatientFold(
            name=f"own_fold{fold}", class_names=["a", "b"], side=4, whole=whole, fold=fold,
            folds=FOLDS,
        )  # fmt: skip
        monkeypatch.setitem(DATASETS, division.name, division)
    return write


def folds_of(names, labels):
    """The fold of every image, by the patients in their names."""
    patients = np.array([name[:8] for name in names])
    return layouts.patient_folds(patients, np.array(labels), FOLDS)


def test_no_patient_is_on_both_sides_and_every_image_is_tested_once(divided, xrays):
    names, labels = xrays
    path, tested = divided(names, labels), []
    for fold, size in enumerate(np.bincount(folds_of(names, labels))):
        parts = [
            load(f"own_fold{fold}", *of, path) for of in (("train", 80 - size), ("test", size))
        ]
        training, test = (images.pixels[:, 0, 0, 0].tolist() for images in parts)
        assert sorted(training + test) == list(range(80))
        shown = torch.cat([images.labels for images in parts]).tolist()
        assert shown == [labels[place] for place in training + test]
        sides = [{names[place][:8] for place in side} for side in (training, test)]
        assert not sides[0] & sides[1] and len(sides[1]) > 1
        assert {place < 50 for place in test} == {True, False}  # of both splits
        tested += test
    assert sorted(tested) == list(range(80))


def test_folds_are_of_like_size_and_like_shares(xrays):
    names, labels = (np.array(part) for part in xrays)
    fold_of = layouts.patient_folds(names, labels, FOLDS)  # every image a patient
    counts = pd.crosstab(fold_of, labels).to_numpy()
    assert counts.sum() == 80 and np.ptp(counts, axis=0).max() <= 1
    counts = pd.crosstab(folds_of(names, labels), labels).to_numpy()
    assert counts.shape == (FOLDS, 2) and np.ptp(counts, axis=0).max() <= 2
    assert np.ptp(counts.sum(1)) <= 2


def test_patients_are_divided_alike_whatever_the_order_of_their_images(xrays):
    names, labels = (np.array(part) for part in xrays)
    order = np.random.default_rng(2).permutation(80)
    assert np.array_equal(folds_of(names, labels)[order], folds_of(names[order], labels[order]))


def test_classes_take_turns_in_a_division_and_a_prefix_stays(divided, xrays):
    path = divided(*xrays)
    images = load("own_fold1", "train", 40, path)
    for start in range(0, 40, 2):
        assert sorted(images.labels[start : start + 2].tolist()) == [0, 1]
    assert load("own_fold1", "train", 10, path).fingerprint == images.first(10).fingerprint


@pytest.mark.parametrize("nameless", [None, "", "_000.png", "0.png", "images_001/0.png"])
def test_images_that_do_not_say_whose_they_are_are_not_divided(divided, xrays, nameless):
    names, labels = xrays
    path = divided([*names[:7], nameless, *names[8:]], labels)
    called = f"an image of own is called {(nameless or '').split('/')[-1]!r}"
    message = f"data_dir = '{path}': {called}; allowed are names like 00000001_000"
    refused(ValueError, message, "own_fold0", "test", 5, path)


@pytest.mark.parametrize("count", [0, 81])
def test_a_division_says_how_many_images_it_has(divided, xrays, count):
    path = divided(*xrays)
    many = (folds_of(*xrays) == 2).sum()
    message = f"count = {count}: own_fold2 test has 1 to {many} images"
    refused(ValueError, message, "own_fold2", "test", count, path)


def test_the_chest_xrays_divisions_are_five_of_the_whole(tmp_path):
    whole, found = DATASETS["chest_xray8"], [DATASETS[f"chest_xray8_fold{k}"] for k in range(5)]
    assert [(of.fold, of.folds, of.whole) for of in found] == [(k, 5, whole) for k in range(5)]
    assert "chest_xray8_fold5" not in DATASETS
    assert {of.folder(str(tmp_path)) for of in found} == {tmp_path / "chest_xray8"}
    for of in found:
        assert (of.class_names, of.side) == (whole.class_names, whole.side)


# The NIH's layout.

ROWS = pd.DataFrame(
    [
        ("00000001_000.png", "Cardiomegaly", 1),
        ("00000001_001.png", "Cardiomegaly|Emphysema", 1),
        ("00000002_000.png", "No Finding", 2),
        ("00000003_000.png", "Hernia|Infiltration|Atelectasis", 3),
        ("00000004_000.png", "No Finding", 4),
        ("00000005_000.png", "Pleural_Thickening", 5),
        ("00000005_001.png", "No Finding", 5),
        ("00000006_000.png", "Mass|Nodule", 6),
        ("00000007_000.png", "Pneumonia", 7),
        ("00000008_000.png", "Edema", 8),
        ("00000009_000.png", "Effusion|Fibrosis|Consolidation|Pneumothorax", 9),
        ("00000010_000.png", "No Finding", 10),
    ],
    columns=["Image Index", "Finding Labels", "Patient ID"],
)
NIH = "chestxray14"
TABLE, LISTED = "Data_Entry_2017.csv", "test_list.txt"


@pytest.fixture
def nih(tmp_path):
    """A data_dir with the NIH's table and images; the grey of an image is its row."""
    folder = tmp_path / NIH
    folder.mkdir()
    ROWS.assign(**{"Patient Age": 50}).to_csv(folder / "Data_Entry_2017.csv", index=False)
    for row, name in enumerate(ROWS["Image Index"]):
        place = ("images", "images_001/images", "images_002/images")[row % 3]
        write_image(folder / place / name, np.full((8, 8), row, np.uint8))
    return tmp_path


def rows_of(images):
    """Rows of the table that a set's images stand in."""
    return images.pixels[:, 0, 0, 0].tolist()


def write_lists(path):
    """Write the NIH's lists: 8 training images, and 4 test images of the patients 1, 4 and 9."""
    tested = ROWS["Patient ID"].isin([1, 4, 9])
    for name, chosen in (("train_val_list.txt", ~tested), ("test_list.txt", tested)):
        (path / NIH / name).write_text("\n".join(ROWS["Image Index"][chosen]) + "\n")


@pytest.mark.parametrize("lists", [True, False])
def test_findings_are_labels_and_no_patient_is_in_both_splits(nih, lists):
    if lists:
        write_lists(nih)
    source, parts = DATASETS[NIH], []
    for split in ("train", "test"):
        count = len(source.rows(nih / NIH, split))
        parts.append(load(NIH, split, count, str(nih), 8))
    for images in parts:
        assert images.labels.dtype == torch.float32
        for row, label in zip(rows_of(images), images.labels, strict=True):
            names = DATASETS[NIH].class_names
            shown = {name for name, one in zip(names, label, strict=True) if one}
            assert shown == set(ROWS["Finding Labels"][row].split("|")) - {"No Finding"}
    training, test = (rows_of(images) for images in parts)
    assert sorted(training + test) == list(range(12))
    patients = [set(ROWS["Patient ID"][rows]) for rows in (training, test)]
    assert not patients[0] & patients[1]
    assert patients[1] == {1, 4, 9} if lists else len(patients[1]) == 2


def test_the_nihs_images_are_shuffled_and_a_prefix_stays(nih):
    write_lists(nih)
    rows = rows_of(load(NIH, "train", 8, str(nih)))
    assert rows != sorted(rows)
    assert rows_of(load(NIH, "train", 3, str(nih))) == rows[:3]


def test_the_nihs_images_have_the_papers_size_and_14_findings(nih):
    images = load(NIH, "test", 1, str(nih))
    assert images.pixels.shape == (1, 3, 224, 224) and images.labels.shape == (1, 14)


def test_without_the_nihs_table_nothing_is_found(nih):
    (nih / NIH / "Data_Entry_2017.csv").unlink()
    message = f"data_dir = '{nih}': no chestxray14/Data_Entry_2017.csv"
    refused(FileNotFoundError, message, NIH, "train", 1, str(nih))


def test_a_missing_column_is_named(nih):
    table = nih / NIH / "Data_Entry_2017.csv"
    ROWS.drop(columns="Patient ID").to_csv(table, index=False)
    message = f"{table}: not a readable chestxray14 file.*Patient ID"
    refused(OSError, message, NIH, "train", 1, str(nih))


@pytest.mark.parametrize("finding", ["Flu", "Mass|Flu", ""])
def test_an_unknown_finding_is_named(nih, finding):
    table = nih / NIH / "Data_Entry_2017.csv"
    ROWS.replace({"Finding Labels": {"Edema": finding}}).to_csv(table, index=False)
    message = f"{table}: finding = '{finding[-3:]}': allowed are No Finding, Atelectasis, .*Hernia"
    refused(ValueError, message, NIH, "train", 1, str(nih))


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (LISTED, "00000004_000.png", "test_list.txt: 00000004_000.png stands there twice"),
        (TABLE, "00000010_000.png,No Finding,10,50", "csv: 00000010_000.png stands there twice"),
        (LISTED, "00000099_000.png", "test_list.txt: 00000099_000.png is not in Data_Entry_2017"),
        (TABLE, "00000011_000.png,Mass|No Finding,11,50", "'Mass|No Finding': allowed is No Fin"),
        (LISTED, "00000008_000.png", "1 of Image Index are in train_val_list.txt and test_list"),
        (TABLE, "00000008_001.png,Edema,8,50", "1 of Patient ID are in .*, the first of them 8;"),
    ],
)
def test_images_and_patients_that_stand_twice_are_named(nih, file, lines, message):
    write_lists(nih)
    with (nih / NIH / file).open("a") as end:
        end.write(f"{lines}\n")
    if lines.startswith("00000008_001"):
        with (nih / NIH / "test_list.txt").open("a") as end:
            end.write("00000008_001.png\n")
    message = message.replace("|", r"\|")
    refused(ValueError, f".*{message}", NIH, "train", 1, str(nih))


def test_an_image_of_the_table_that_is_absent_is_named(nih):
    write_lists(nih)
    (nih / NIH / "images/00000003_000.png").unlink()
    message = f"{nih / NIH}: 00000003_000.png of Data_Entry_2017.csv is neither in images nor in"
    refused(FileNotFoundError, message, NIH, "train", 8, str(nih))


def test_one_list_does_not_go_without_the_other(nih):
    write_lists(nih)
    (nih / NIH / "test_list.txt").unlink()
    refused(FileNotFoundError, ".*test_list.txt", NIH, "test", 1, str(nih))


def test_the_nihs_splits_say_how_many_images_they_have(nih):
    write_lists(nih)
    refused(ValueError, "count = 5: chestxray14 test has 1 to 4 images", NIH, "test", 5, str(nih))


# Whatever the layout.


@pytest.mark.parametrize(
    "name", ["tiny_imagenet100", "chest_xray8", "chest_xray8_fold1", "imagenet_subset", NIH]
)
def test_a_folder_without_the_data_set_is_named(tmp_path, name):
    refused(FileNotFoundError, "data_dir = '': .* needs the folder", name, "test", 1)
    message = f"data_dir = '{tmp_path}': .*{name.partition('_fold')[0]}/"
    refused(FileNotFoundError, message, name, "test", 1, str(tmp_path))


def test_pictures_become_squares_of_their_middle():
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = drawn(1, 40)[0]
    tall = wide.transpose(1, 0, 2)
    pictures = layouts.in_memory([wide, tall])
    same = layouts.decode(pictures, "middle", 40)
    assert np.array_equal(same, [wide[:, 30:70].transpose(2, 0, 1), tall[30:70].transpose(2, 0, 1)])
    half = layouts.decode(pictures, "middle", 20)
    block_means = same.reshape(2, 3, 20, 2, 20, 2).mean((3, 5))
    assert half.shape == (2, 3, 20, 20) and np.corrcoef(half.flat, block_means.flat)[0, 1] > 0.9


def test_small_pictures_are_enlarged_and_fine_stripes_do_not_alias():
    flat = np.full((16, 16, 3), (10, 100, 200), np.uint8)
    large = layouts.decode(layouts.in_memory([flat]), "flat", 64)
    assert np.array_equal(large, np.broadcast_to(flat[0, 0][None, :, None, None], large.shape))
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = layouts.decode(layouts.in_memory([stripes]), "stripes", 16)
    assert np.abs(small[..., 2:-2].astype(int) - 127).max() <= 8


def test_kinds_of_pictures_are_those_that_torchvisions_folders_know():
    assert layouts._READ == torchvision.datasets.folder.IMG_EXTENSIONS


def test_neither_torchvision_nor_pytorchs_compiler_is_loaded_before_it_is_used():
    asked = "from robust_transfer.davchev2019 import claims; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout
    assert "robust_transfer.davchev2019.experiment" in loaded.split()
    assert not {"torchvision", "torch._dynamo"} & {*loaded.split()}  # each takes seconds
