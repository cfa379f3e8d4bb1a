"""The doctor and `wait_for` on a real sandbox: an app that ends is named while the stack still deploys."""

from __future__ import annotations

import pytest

from helpers import sandbox
from helpers.diagnose import diagnose
from helpers.errors import StackFailed
from helpers.stacks import wait_for
from helpers.templates import template
from tests.sandbox.live import Live, write_app
from tests.test_bad_input import EXITS, deploy, environment_of


def test_the_wait_ends_with_the_diagnosis_while_the_stack_goes_on(tmp_path, monkeypatch):
    live = Live(tmp_path / "state", speed=60)
    environment_of(live, monkeypatch, "exits")
    no_breaker = template("07").body.replace("          Enable: true", "          Enable: false")
    try:
        image = live.push(write_app(tmp_path / "app", EXITS), repository="exits")
        deploy(live, "exits", image, no_breaker)
        with pytest.raises(StackFailed) as failed:
            wait_for("exits")
        (stack,) = live.aws("cloudformation").describe_stacks(StackName="exits")["Stacks"]
        diagnosis = diagnose("exits", "exits", "exits")
    finally:
        sandbox.stop(live.state)
    assert stack["StackStatus"] == "CREATE_IN_PROGRESS"
    told = str(failed.value)
    assert "Probable cause: app-exits" in told
    assert "exit code 3" in told
    assert "Error: no DATABASE_URL" in told
    assert 'delete_stack(StackName="exits")' in told
    assert [cause.rule for cause in diagnosis.causes][:2] == ["app-exits", "no-circuit-breaker"]
    assert not diagnosis.unread
    # With the sandbox down
    lost = diagnose("exits", "exits", "exits")
    assert (lost.status, lost.healthy) == (2, False)
    assert "Could not" in str(lost)
