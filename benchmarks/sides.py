"""At which side EfficientNet-Lite0 should see CIFAR-10: what its accuracy is at three of them.

    python -m benchmarks.sides --data-dir DIR

Every network is fine-tuned as the study ``imagenet`` does it, every layer and seed 0; the smallest
side that loses little is the study's (``networks.backbones.LITE_SIDE``). The networks are trained
side by side, and no weights are kept. Written to ``book/benchmarks/sides.json``.
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from robust_transfer import paths
from robust_transfer.attacks import share_right
from robust_transfer.config import Parser, say
from robust_transfer.data.registry import load
from robust_transfer.files import write_sealed
from robust_transfer.myakala2022.experiment import cells, read_study
from robust_transfer.networks.backbones import efficientnet_lite0
from robust_transfer.networks.registry import NETWORKS, PRETRAINED, build
from robust_transfer.networks.states import load_state
from robust_transfer.records.provenance import provenance
from robust_transfer.training import loop
from robust_transfer.training.engine import batch_size

SIDES = (64, 96, 128)
DATASET = "cifar10"
WRITTEN = paths.ROOT / "book" / "benchmarks" / "sides.json"


def at(side: int, data_dir: str) -> dict[str, float]:
    """Accuracy on the test images, in [0, 1], after training at a side, and what it took."""
    name = f"efficientnet_lite0_{side}"
    NETWORKS[name] = partial(efficientnet_lite0, side=side)
    PRETRAINED[name] = partial(efficientnet_lite0, pretrained=True, side=side)
    study = read_study(paths.STUDIES / "imagenet.yaml")
    given = next(c for c in cells(study) if c.dataset == DATASET and not c.techniques).configs[0]
    config = loop.TrainingConfig(**dict(given) | {"network": name})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        images = loop.load_data(config, data_dir)
        checkpoint = Path(folder, "checkpoint.safetensors")
        state, _ = loop.train(config, images, device, checkpoint, on_epoch=partial(told, side))
    seconds = time.perf_counter() - started
    model = build(name, 10, config.seed)
    load_state(model, state)
    model = model.eval().to(device)
    test, right = load(DATASET, "test", study.targets[DATASET].test_size, data_dir), 0.0
    with torch.no_grad():
        for pixels, labels in test.to(device).batches(batch_size(2500, model, test.pixels)):
            right += share_right(model(pixels), labels).sum().item()
    return {"side": side, "natural": right / len(test), "seconds": round(seconds, 1)}


def told(side: int, row: dict) -> None:
    """Print how far a training is."""
    print(f"{side} pixels: epoch {row['epoch']}, natural {row['natural']:.3f}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure at all sides; returns the exit code, 1 with one line on a failure with a reason."""
    parser = Parser(prog="benchmarks.sides", description=__doc__)
    parser.add_argument("--data-dir", default="", help="folder of the images")
    try:
        options = parser.parse_args(arguments)
        with ProcessPoolExecutor(len(SIDES), get_context("spawn")) as pool:
            rows = list(pool.map(partial(at, data_dir=options.data_dir), SIDES))
    except (ValueError, OSError, RuntimeError) as error:
        return say(error, 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write_sealed(WRITTEN, {"rows": rows, "machine": provenance(device)})
    print(*rows, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
