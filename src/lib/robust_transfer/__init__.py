"""Robust Transfer: adversarial robustness under transfer learning, reproduced cell by cell.

``load`` gives a published network by its id, ``published`` a table of them, ``verify`` measures
one of its accuracies again:

>>> import robust_transfer as rt
>>> model = rt.load("pgd-pgd-all")
"""

__version__ = "0.1.0"


def __dir__() -> list[str]:
    return [*globals(), "load", "published", "verify"]


def __getattr__(name: str) -> object:
    """What a reader types, imported when it is: so the import of any other module stays cheap."""
    if name not in ("load", "published", "verify"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robust_transfer.davchev2019 import catalogue, verification

    return getattr(verification if name == "verify" else catalogue, name)
