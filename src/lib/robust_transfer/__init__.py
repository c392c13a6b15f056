"""Robust Transfer: adversarial robustness under transfer learning, reproduced cell by cell."""

__version__ = "0.1.0"
