"""Where things are in the checkout; relative paths given by a user start at its root."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
STUDIES = NOTEBOOKS / "studies"
BOOK = ROOT / "book"
EXECUTED = BOOK / "_executed"
GENERATED = BOOK / "_static" / "generated"
PUBLISHED = BOOK / "results"
REFERENCE = BOOK / "reference"
DECODED = ROOT / "results" / "decoded"


def resolve(path: str) -> str:
    """Make a user's path absolute; "" stays "", which stands for none."""
    return str(ROOT / path) if path else ""
