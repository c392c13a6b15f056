"""Every data set by name, and the one way to load its images."""

from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import AfterValidator

from robust_transfer import paths
from robust_transfer.config import one_of
from robust_transfer.data import decoding, glyphs, kept, layouts
from robust_transfer.data.images import Images, divide
from robust_transfer.data.layouts import DataSet, checked_labels, decode, numbered

# 1,000 of the NIH's images: the small stand-in for paper B's chest X-rays.
CHEST = layouts.Parquet(
    name="chest_xray8",
    class_names=["No Finding", "Pneumonia"],
    side=224,
    sizes={"train": 784, "test": 216},
)
FOLDS = 5
"""Divisions of ``chest_xray8`` by patient, so that all of its few images are tested."""
cifar = partial(layouts.Cifar, side=32, sizes={"train": 50_000, "test": 10_000}, image_column="img")
DATASETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        cifar(
            name="cifar10",
            class_names=[
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ],
            torchvision_class="CIFAR10",
        ),
        cifar(
            name="cifar100",
            class_names=numbered(100),
            label_column="fine_label",
            torchvision_class="CIFAR100",
        ),
        *(
            layouts.Drawn(name=task, class_names=glyphs.class_names(task), side=glyphs.SIZE)
            for task in glyphs.TASKS
        ),
        # Half of Tiny ImageNet's classes: the small stand-in for paper B's ImageNet subset.
        layouts.Parquet(
            name="tiny_imagenet100",
            class_names=numbered(100),
            side=64,
            sizes={"train": 16_000, "test": 2_000},
            test_stem="valid",
        ),
        # Paper B: 100 classes of ImageNet, 50,000 + 5,000 images; which, it does not say.
        layouts.ClassFolders(name="imagenet_subset", class_names=numbered(100), side=224),
        CHEST,
        *(
            layouts.PatientFold(
                name=f"{CHEST.name}_fold{fold}",
                class_names=CHEST.class_names,
                side=CHEST.side,
                whole=CHEST,
                fold=fold,
                folds=FOLDS,
            )
            for fold in range(FOLDS)
        ),
        # Paper B says ChestX-ray8 (Wang et al. 2017, eight findings), but its 14 classes and
        # 112,120 images are those of the release after it, ChestX-ray14. It takes 10,000 of them.
        layouts.ChestXray14(
            name="chestxray14",
            class_names=[
                *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule"),
                *("Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
                *("Pleural_Thickening", "Hernia"),
            ],
            side=224,
        ),
    )
}
"""Every data set by name."""
OURS = frozenset(DATASETS)
"""Those that every process knows."""


def register(dataset: DataSet) -> None:
    """Make a data set of your own known, or known anew, so that configurations can name it."""
    load.cache_clear()
    load_divided.cache_clear()
    DATASETS[dataset.name] = dataset


def one_class_an_image(parameter: str, dataset: str) -> None:
    """Raise ValueError if a parameter names a data set of independent labels."""
    if DATASETS[dataset].multi_label:
        allowed = ", ".join(sorted(n for n, known in DATASETS.items() if not known.multi_label))
        said = f"{parameter} = {dataset!r}: has independent labels"
        raise ValueError(f"{said}; allowed are {allowed}")


DataSetName = Annotated[str, AfterValidator(partial(one_of, "dataset", allowed=DATASETS))]
"""Type of a configuration's field that names a data set."""


@lru_cache(maxsize=4)
def load(name: str, split: str, count: int, data_dir: str = "", image_size: int = 0) -> Images:
    """Load the first ``count`` images of a split.

    Args:
        name: a key of ``DATASETS``.
        split: ``train`` or ``test``.
        count: how many images, from the beginning of the split.
        data_dir: folder that holds the folder ``<name>``, in one of the ``layouts``, or
            torchvision's CIFAR download. The embedded tasks need none.
        image_size: height and width the images are resized to; 0 is the data set's own size. See
            ``decoding.square``.

    Raises:
        ValueError: unknown ``name`` or ``split``; more images asked for than there are; classes
            or labels that are not those of the data set, or not all of them.
        FileNotFoundError: no data at ``data_dir`` and none could be downloaded; a part is missing.
        OSError: a file is truncated or altered.
    """
    dataset = DATASETS[one_of("dataset", name, DATASETS)]
    one_of("split", split, ("train", "test"))
    if image_size < 0:
        raise ValueError(f"image_size = {image_size}: allowed are whole numbers from 1, or 0")
    side = image_size or dataset.side

    def make() -> Images:
        pictures, found = dataset.find(split, count, data_dir)
        if len(pictures) != count:
            said = f"{name} {split}: it found {len(pictures)} images"
            raise ValueError(f"{said}; allowed are {count}, as many as were asked for")
        labels = checked_labels(dataset, split, found, len(pictures))
        return Images.of(torch.from_numpy(decode(pictures, name, side)), torch.from_numpy(labels))

    ours = type(dataset).__module__ == layouts.__name__  # one's own code may change
    if not (ours and data_dir and 3 * side**2 * count >= kept.LEAST):
        return make()
    known_as, folder = f"{name}-{split}-{count}-{side}", dataset.folder(data_dir)
    what = f"{dataset!r} {Path(decoding.__file__).read_text(encoding='utf-8')}"
    return kept.get_or_make(known_as, what, folder, make)


@lru_cache(maxsize=1)
def load_divided(
    name: str, train_size: int, validation_size: int, seed: int, data_dir: str, image_size: int
) -> tuple[Images, Images]:
    """Training and validation images of a data set; see ``load`` and ``images.divide``."""
    images = load(name, "train", train_size + validation_size, data_dir, image_size)
    return divide(images, train_size, seed)


def one_of_each(name: str, data_dir: str = "") -> Images:
    """Load the first test image of every class, in the order of the classes.

    Those of ``cifar10`` are part of the repository, side by side in ``book/images``.

    Raises:
        ValueError, FileNotFoundError, OSError: see ``load``.
    """
    classes = DATASETS[one_of("dataset", name, DATASETS)].classes
    if (strip := paths.IMAGES / f"{name}.png").exists():
        pictures = np.split(np.asarray(Image.open(strip)), classes, axis=1)
        pixels = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2))
        return Images.of(pixels.contiguous(), torch.arange(classes))
    images = load(name, "test", layouts.MIXED * classes, data_dir)
    return images.take((images.labels == torch.arange(classes)[:, None]).int().argmax(1))
