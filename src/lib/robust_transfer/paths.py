"""Where things are in the checkout; relative paths given by a user start at its root."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
STUDIES = NOTEBOOKS / "studies"
BOOK = ROOT / "book"
EXECUTED = BOOK / "_executed"
IMAGES = BOOK / "images"
GENERATED = BOOK / "_static" / "generated"
PUBLISHED = BOOK / "results"
REFERENCE = BOOK / "reference"
DECODED = ROOT / "results" / "decoded"


def resolve(path: str) -> str:
    """Make a user's path absolute, ``~`` being home; "" stays "", which stands for none."""
    try:
        return str(ROOT / Path(path).expanduser()) if path else ""
    except RuntimeError:  # of a user who has no home here
        raise ValueError(f"{path}: nobody of that name has a home here") from None


def parameter_file(parameter: str, folder: Path, name: str) -> Path:
    """The file that a user gave by its name in ``folder`` or by its path.

    Raises:
        ValueError: there is neither.
    """
    for path in (folder / f"{name}.yaml", Path(f"{name}").expanduser(), ROOT / f"{name}"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ValueError(f"{parameter} = {name!r}: allowed are {known}, or a file")
