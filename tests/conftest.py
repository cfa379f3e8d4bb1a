"""What all tests share: no test reaches AWS, none reads the settings of whoever runs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import boto3
import pytest
from hypothesis import settings

from helpers import session, this_machine
from tests.engine.fixtures import engine, engine_labels, pytest_runtest_makereport  # noqa: F401

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests call a task is a Node process, with or without an engine here. Those of containers ask for them by name.
os.environ["SANDBOX_RUNTIME"] = "process"

settings.register_profile("here", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("here")


@pytest.fixture(autouse=True)
def no_aws_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sandbox, a call to AWS fails: no credentials, no profile, no endpoint but the real one, which refuses."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(session, "_current", None)  # neither is left to the next test by one that connects


@pytest.fixture(scope="session")
def no_containers(request: pytest.FixtureRequest) -> str:
    """Why tasks cannot run as containers here; "" when they can, and then the base images are ready."""
    best, lacking = this_machine.best_runtime()
    if best == "container":
        try:
            request.getfixturevalue("engine")
        except pytest.skip.Exception as skipped:
            return str(skipped)
    return lacking


@pytest.fixture(scope="session")
def checkout() -> Path:
    return Path(__file__).resolve().parents[1]
