"""Measure attacks and training steps side by side; write book/benchmarks/<cpu or cuda>.json."""

import argparse
import sys

from benchmarks import accuracy, growth, machine, parts, pipeline, strength
from benchmarks.settings import Bench, Settings
from robust_transfer.files import write_sealed
from robust_transfer.records.provenance import provenance
from robust_transfer.records.store import Store

TURNS = {"network", "dataset", "train_size", "validation_size", "epochs", "rounds", "batch_size"}
MEASURE = {
    "attacks": (parts.attacks, TURNS | {"peers"}),
    "steps": (parts.steps, TURNS),
    "tricks": (parts.tricks, TURNS | {"compile"}),
    "precision": (accuracy.precision, {"profile", "images", "batch_size"}),
    "strength": (strength.strength, {"profile"}),
    "growth": (growth.growth, TURNS),
    "pipeline": (pipeline.pipeline, set()),
}
"""What measures each part, and the settings that decide it."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the wanted parts; returns the exit code, 1 with one line on a failure with a reason.

    A part is written when it is finished, in the place of its last measurement.
    """
    options = vars(_parser().parse_args(arguments))
    try:
        settings = Settings(**options)
        bench = Bench(settings)
        rivals = settings.peers if "attacks" in settings.parts else ()
        hardware = machine.describe(bench.device, rivals)
        path = bench.folder / f"{bench.device.type}.json"
        for name in settings.parts:
            measure, decisive = MEASURE[name]
            measured = measure(bench) | {
                "settings": settings.model_dump(mode="json", include=decisive),
                "machine": hardware | provenance(bench.device),
            }
            content = Store(bench.folder).read_sealed(path) or {}
            write_sealed(path, content | {name: measured})
            print(f"{name}: written to {path}", flush=True)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, field in Settings.model_fields.items():
        how = {"default": field.default, "nargs": {"parts": "+", "peers": "*"}.get(name)}
        if field.annotation is bool:
            how = {"action": "store_true"}
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description, **how)
    return parser


if __name__ == "__main__":
    sys.exit(main())
