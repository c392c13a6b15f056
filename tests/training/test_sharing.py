"""NVIDIA's process service begins before workers, ends after them, and is each job's own."""

import os
import sys

import pytest

from robust_transfer.training import sharing


def test_the_process_service_is_there_before_workers_and_ends_after_them(service):
    with sharing.process_service(2):
        assert service() == ["start", "program"]
    assert service() == ["start", "program", "quit"]
    with pytest.raises(SystemExit), sharing.process_service(2):
        sys.exit(143)
    assert service()[3:] == ["start", "program", "quit"]


def test_one_worker_needs_no_process_service(service):
    for workers in (0, 1):
        with sharing.process_service(workers):
            pass
    assert service() == []


def test_a_process_service_of_others_is_not_ended(service, monkeypatch):
    monkeypatch.setenv("REFUSES", "1")
    with sharing.process_service(2):
        pass
    assert service() == ["start"]


def test_a_process_service_under_which_nothing_runs_is_ended(service, monkeypatch, capsys):
    monkeypatch.setattr(sharing, "CUDA_PROGRAM", "raise SystemExit(1)")
    with sharing.process_service(2):
        assert service() == ["start", "quit"]
    assert service() == ["start", "quit"]
    assert "no CUDA program runs under nvidia-cuda-mps-control" in capsys.readouterr().out


def test_without_nvidias_command_workers_take_turns(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with sharing.process_service(2):
        pass


def test_every_job_has_a_service_of_its_own(service, monkeypatch):
    monkeypatch.setenv(sharing.PIPES, "of others")
    places = set()
    for _ in range(2):
        with sharing.process_service(2):
            places.add(os.environ[sharing.PIPES])
        assert os.environ[sharing.PIPES] == "of others"
    assert len(places) == 2 and not any(os.path.exists(place) for place in places)
