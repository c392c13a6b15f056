"""Runs on a machine that is lent for minutes, see ``away``."""
