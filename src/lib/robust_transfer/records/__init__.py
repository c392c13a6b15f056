"""Finished trainings on disk, found by the hash of their configuration."""
