"""What this machine has to run an app with. Apps run on it: test_apps.py."""

from __future__ import annotations

from helpers import this_machine


def test_an_engine_without_a_registry_program_is_not_enough(engine, monkeypatch, tmp_path):
    from helpers.sandbox.ecr import distribution_container

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(distribution_container, "find_image", lambda client: None)
    monkeypatch.setattr("helpers.sandbox.fargate.engine.is_near", lambda client: True)
    kind, lacking = this_machine.best_runtime()
    assert kind == "process"
    assert "docker pull registry" in lacking
