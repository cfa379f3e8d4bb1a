"""Canned answers for real boto3 clients: botocore checks every request and every answer against AWS's own model."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.client
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

Answer = dict | Exception | Callable[[dict], dict]


class Answers:
    """`answers["ecs", "DescribeServices"] = {…}`, or a function of the call's parameters, or an error to raise."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.calls: list[tuple[str, str, dict]] = []
        self.regions: list[str] = []  # each call's
        self._session = boto3.session.Session("test", "test", region_name="us-east-1")

    def __setitem__(self, key: tuple[str, str], answer: Answer) -> None:
        self.answers[key] = answer

    def client(self, name: str, region_name: str | None = None) -> Any:
        client = self._session.client(name, region_name)
        client.meta.events.register("provide-client-params.*.*", self._note(name, client.meta.region_name))
        client.meta.events.register("before-call.*.*", self._answer(name))
        return client

    def _note(self, service: str, region: str) -> Callable:
        def note(params: dict, model, **_: object) -> None:
            self.calls.append((service, model.name, params))
            self.regions.append(region)

        return note

    def _answer(self, service: str) -> Callable:
        def answer(model, **_: object):
            asked = self.calls[-1][2]
            found = self.answers[service, model.name]
            found = found(asked) if callable(found) else found
            if isinstance(found, Exception):
                raise found
            if model.output_shape:  # CancelUpdateStack, for one, answers nothing
                validate_parameters(found, model.output_shape)
            return AWSResponse("http://answers", 200, {}, None), found

        return answer


def does_not_exist(stack: str) -> ClientError:
    """As CloudFormation says it."""
    message = f"Stack with id {stack} does not exist"
    return botocore.client.ClientError(
        {"Error": {"Code": "ValidationError", "Message": message}}, "DescribeStacks"
    )


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """boto3.client gives answers made up by the test. Nobody sleeps: time, for `polls` and in the lab, passes by what was
    to be slept and by nothing else, so that there are as many looks on a slow machine as on any."""
    from helpers import calls, session
    from tests.lab import StubLab

    lab = StubLab(speed=600)
    answers = Answers()
    passed: list[float] = []

    def now() -> datetime:
        return datetime.fromtimestamp(lab.began + sum(passed) * lab.speed, UTC)

    monkeypatch.setattr(boto3, "client", answers.client)
    monkeypatch.setattr(session, "current", lambda: lab)
    monkeypatch.setattr(lab, "now", now)
    monkeypatch.setattr(time, "sleep", passed.append)
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: sum(passed), sleep=passed.append))
    return answers
