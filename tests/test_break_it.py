"""Names, seeds, hints and messages of the lab: no sandbox, made-up answers."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import pytest
from botocore.exceptions import ClientError

from helpers import faults, session
from helpers.diagnosis.table import RULES
from helpers.errors import TutorialError
from helpers.faults import FAULTS, Broken, broken, revisions, scores, wellness
from helpers.faults.fault import LAYERS
from helpers.faults.place import Place
from helpers.faults.visits import errors
from helpers.faults.wellness import Verdict, examine
from helpers.templates import template
from tests import shop
from tests.answers import Answers, aws

__all__ = ["aws"]

ALIKE = {"architecture", "log-group-missing"}  # of which there is one way only


class Recorder:
    """boto3.client for calls that nobody answers in earnest."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def client(self, service: str) -> Any:
        return _Client(service, self.calls)


class _Client:
    ANSWERS: ClassVar[dict[str, Any]] = {
        "get_caller_identity": {"Account": "123456789012"},
        "describe_security_groups": {"SecurityGroups": [{"IpPermissions": [{"FromPort": 3000}]}]},
    }

    def __init__(self, service: str, calls: list[Any]):
        self._service, self._calls = service, calls

    def __getattr__(self, operation: str) -> Any:
        def call(**asked: Any) -> Any:
            self._calls.append((self._service, operation, asked))
            return self.ANSWERS.get(operation, {})

        return call


class FakePlace(Place):
    """A place whose shared calls are recorded; it has the template's resources under their own names."""

    calls: list[Any]

    def deploy(self, container: dict | None = None, **changes: Any) -> None:
        self.calls.append(("deploy", container, changes))

    def update(self, **changes: Any) -> None:
        self.calls.append(("update", changes))

    def lose_a_task(self) -> None:
        self.calls.append("lose a task")

    def resource(self, logical_id: str) -> str:
        return logical_id

    @property
    def repository_uri(self) -> str:
        return "registry/shop"

    @property
    def template_body(self) -> str:
        return (revisions_root() / "templates/08-auto-scaling.yaml").read_text()

    @property
    def service(self) -> Any:
        vpc = {"subnets": ["subnet-1"], "assignPublicIp": "ENABLED"}
        record = {"networkConfiguration": {"awsvpcConfiguration": vpc}}
        return SimpleNamespace(record=record, until_steady=lambda **_: None)


def revisions_root() -> Path:
    return Path(revisions.__file__).resolve().parents[2]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(boto3, "client", recorder.client)
    for module in (revisions, faults.app_ends, faults.health):
        monkeypatch.setattr(
            module, "push_changed", lambda place, changes, rng: f"image of {changes} {rng.random()}"
        )
    monkeypatch.setattr(faults.app_ends, "polls", lambda minutes: [])
    monkeypatch.setattr(
        faults.scaling, "_update_stack", lambda place, body: recorder.calls.append(("stack", body))
    )
    return recorder


def made_by(recorder: Recorder, name: str, seed: int) -> str:
    recorder.calls.clear()
    place = FakePlace("shop", "us-east-1")
    object.__setattr__(place, "calls", recorder.calls)
    FAULTS[name].breaks(place, Random(f"{name} {seed}"))
    assert recorder.calls
    return json.dumps(recorder.calls, default=str)


# The table


def test_every_layer_has_a_fault_and_the_table_goes_by_layer():
    assert list(dict.fromkeys(fault.layer for fault in FAULTS.values())) == list(LAYERS)
    assert len(FAULTS) >= 18


def test_a_fault_is_called_as_the_doctor_calls_its_cause():
    assert set(FAULTS) <= set(RULES)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_symptom_does_not_say_the_cause_and_three_hints_lead_to_it(fault):
    for word in re.findall(r"\w{5,}", fault.name):
        assert word not in fault.symptom.lower()
    assert len(set(fault.hints)) == 3
    assert all(hint.endswith((".", "?")) for hint in fault.hints)


def test_the_table_for_people_names_them_all():
    told = faults.table()
    assert list(told["layer"]) == list(LAYERS)
    assert ", ".join(told["faults"]) == ", ".join(FAULTS)


# Seeds


@pytest.mark.parametrize("name", FAULTS)
def test_the_same_seed_does_the_same_and_others_do_something_else(recorder, name):
    assert made_by(recorder, name, 3) == made_by(recorder, name, 3)
    ways = {made_by(recorder, name, seed) for seed in range(12)}
    assert (len(ways) == 1) == (name in ALIKE)


def test_a_surprise_may_be_any_fault_and_a_seed_is_one_of_them():
    assert {broken.chosen(seed).name for seed in range(300)} == set(FAULTS)
    assert broken.chosen(7) is broken.chosen(7)


def test_the_wrong_apps_are_changes_of_lines_that_the_sample_app_has(monkeypatch):
    """One line each, and what comes of it is what is pushed."""
    pushed: list[str] = []

    def build(app: Path, tag: str) -> Path:
        pushed.append((app / "server.js").read_text())
        return app

    monkeypatch.setattr("helpers.images.build_image", build)
    monkeypatch.setattr("helpers.images.push_image", lambda image, uri: f"{uri}@sha256:1")
    place = FakePlace("shop", "us-east-1")
    object.__setattr__(place, "calls", [])
    monkeypatch.setattr(faults.app_ends, "polls", lambda minutes: [])
    for name in ("out-of-memory", "keep-alive", "sigterm-lost", "grace-period"):
        FAULTS[name].breaks(place, Random(name))
    original = (revisions_root() / "sample-app/server.js").read_text()
    assert len(set(pushed) - {original}) == 4
    with pytest.raises(TutorialError, match="is not there"):
        revisions.push_changed(place, {"no such line": "x"}, Random(1))


def test_a_line_that_is_missing_is_told_before_aws_is_asked_for_anything(monkeypatch, aws: Answers):
    monkeypatch.setattr("helpers.images.build_image", lambda *_: pytest.fail("an app was built"))
    changes = {"async function main() {\n": "x", "no such line": "y"}
    with pytest.raises(TutorialError, match="is not there"):
        revisions.push_changed(Place("shop", "us-east-1"), changes, Random(1))
    assert not aws.calls


def test_the_log_group_is_made_though_another_has_a_longer_name(aws: Answers):
    groups = ["/ecs/shop-eu"]
    aws["logs", "DescribeLogGroups"] = lambda asked: {"logGroups": [{"logGroupName": one} for one in groups]}
    aws["logs", "CreateLogGroup"] = lambda asked: groups.append(asked["logGroupName"]) or {}
    aws["logs", "PutRetentionPolicy"] = {}
    for _ in range(2):  # the second time it is there
        FAULTS["log-group-missing"].mend(Place("shop", "us-east-1"))
    assert groups == ["/ecs/shop-eu", "/ecs/shop"]
    kept = [asked["logGroupName"] for _, operation, asked in aws.calls if operation == "PutRetentionPolicy"]
    assert kept == ["/ecs/shop"] * 2


# What break_it refuses


def lab(**changes: Any) -> Any:
    plain = {"target": "sandbox", "name": "shop", "region": "us-east-1", "speed": 60.0}
    return SimpleNamespace(**plain | changes)


def test_on_aws_nothing_is_broken():
    with pytest.raises(TutorialError, match="Only the sandbox"):
        faults.break_it(lab(target="aws"), "security-group")


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(TutorialError, match="no fault 'securitygroup'") as refused:
        faults.break_it(lab(), "securitygroup")
    assert all(name in refused.value.seen for name in FAULTS)
    assert 'break_it("security-group")' in refused.value.next


@pytest.mark.parametrize("seed", ["7", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(TutorialError, match="whole number"):
        faults.break_it(lab(), seed=seed)


def test_nothing_deployed_says_what_makes_it(aws: Answers):
    told = {"Error": {"Code": "ClusterNotFoundException", "Message": "Cluster not found."}}
    aws["ecs", "DescribeServices"] = ClientError(told, "DescribeServices")
    aws["application-autoscaling", "DescribeScalableTargets"] = {"ScalableTargets": []}
    with pytest.raises(TutorialError, match="no service shop with auto scaling") as refused:
        faults.break_it(lab(), "security-group")
    assert 'catch_up(through="08")' in refused.value.next


def note(aws: Answers, value: str) -> None:
    """A shop whose cluster has this note."""
    shop.open_shop(aws)
    aws["cloudformation", "DescribeStacks"] = {
        "Stacks": [{"StackName": "shop", "CreationTime": shop.START, "StackStatus": "CREATE_COMPLETE"}]
    }
    aws["ecs", "DescribeClusters"] = {"clusters": [{"clusterArn": "arn:cluster/shop", "status": "ACTIVE"}]}
    aws["ecs", "ListTagsForResource"] = {"tags": [{"key": broken.TAG, "value": value}]}


def test_a_broken_service_says_so_and_how_to_go_on(aws: Answers):
    note(aws, f"app-exits 3 {time.time() - 130:.0f}")
    with pytest.raises(TutorialError, match="broken already") as refused:
        faults.break_it(lab(), "security-group")
    assert "app-exits (app), since 2.2 minutes" in refused.value.seen
    assert "take_up(lab)" in refused.value.next


def test_a_surprise_is_not_given_away_by_who_breaks_it_again(aws: Answers):
    note(aws, f"surprise 7 {time.time():.0f}")
    with pytest.raises(TutorialError) as refused:
        faults.break_it(lab(), "security-group")
    assert "a surprise, seed 7" in refused.value.seen
    assert broken.chosen(7).name not in str(refused.value)


def breaking(monkeypatch: pytest.MonkeyPatch, aws: Answers, error: BaseException) -> Any:
    """A lab whose app-exits cannot be made, for this reason. Its note is kept in the answers."""
    noted: list[dict[str, str]] = []
    shop.open_shop(aws)
    aws["ecs", "DescribeClusters"] = {"clusters": [{"clusterArn": "arn:cluster/shop", "status": "ACTIVE"}]}
    aws["ecs", "ListTagsForResource"] = lambda asked: {"tags": list(noted)}
    aws["ecs", "TagResource"] = lambda asked: noted.extend(asked["tags"]) or {}
    aws["ecs", "UntagResource"] = lambda asked: noted.clear() or {}
    monkeypatch.setattr(broken, "_ensure_built", lambda place: None)
    monkeypatch.setattr(broken, "_make_ready", lambda place: None)

    def breaks(place: Place, rng: Random) -> None:
        assert noted  # before anything is changed
        raise error

    monkeypatch.setitem(broken.FAULTS, "app-exits", replace(FAULTS["app-exits"], breaks=breaks))
    return lab(go_on=lambda: None, now=lambda: shop.START)


def test_what_could_not_be_broken_is_not_noted_as_broken(monkeypatch, aws: Answers, capsys):
    here = breaking(monkeypatch, aws, TutorialError("That line is not there."))
    with pytest.raises(TutorialError, match="line is not there"):
        faults.break_it(here, "app-exits")
    assert faults.take_up(here) is None
    assert "Nothing is broken in" in capsys.readouterr().out


def test_an_interrupt_keeps_the_note_since_something_may_be_broken(monkeypatch, aws: Answers):
    here = breaking(monkeypatch, aws, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        faults.break_it(here, "app-exits", seed=3)
    assert faults.take_up(here).reveal() == "app-exits (app)"


def test_the_same_fault_is_handed_out_again(aws: Answers, capsys):
    note(aws, f"app-exits 3 {time.time():.0f}")
    assert faults.break_it(lab(), "app-exits", seed=3).reveal() == "app-exits (app)"
    assert "broken already, in this very way" in capsys.readouterr().out


def test_what_is_broken_can_be_taken_up_in_another_notebook(aws: Answers):
    note(aws, "surprise 7 1000")
    taken = faults.take_up(lab())
    assert (taken.fault, taken.seed, taken.surprise, taken.began) == (broken.chosen(7), 7, True, 1000.0)
    aws["ecs", "ListTagsForResource"] = {"tags": []}
    assert faults.take_up(lab()) is None


# What it hands out


def of(name: str, *, surprise: bool = False, **changes: Any) -> Broken:
    return Broken(lab(), FAULTS[name], 7, surprise, time.time() - 90, **changes)


def test_it_shows_the_symptom_and_the_time_and_a_surprise_stays_one():
    told = repr(of("app-exits"))
    assert "app-exits (app), seed 7. 1.5 minutes so far." in told
    secret = repr(of("app-exits", surprise=True))
    assert "A surprise, seed 7." in secret
    assert "app-exits" not in secret


def test_hints_come_in_three_steps_and_are_counted():
    one = of("app-exits")
    assert [one.hint(number) for number in (1, 2)] == [repr(one.hint(1)), repr(one.hint(2))]
    assert one.hints == 2
    with pytest.raises(TutorialError, match="three hints"):
        one.hint(4)


def test_the_solution_is_made_of_plain_calls():
    for fault in FAULTS.values():
        assert "def " in of(fault.name).solution
    assert "modify_target_group" in of("health-check-path").solution


def test_the_scoreboard_counts_the_rounds_of_this_sandbox(tmp_path):
    here = lab(state=tmp_path, running=SimpleNamespace(pid=7))
    scores.add(here, fault="app-exits", layer="app", minutes=1.5, hints=2, by="hand")
    other = lab(state=tmp_path, running=SimpleNamespace(pid=8))
    scores.add(other, fault="keep-alive", layer="app", minutes=9.0, hints=0, by="mend")
    assert faults.scoreboard(here).to_dict("records") == [
        {"fault": "app-exits", "layer": "app", "minutes": 1.5, "hints": 2, "by": "hand"}
    ]
    assert list(faults.scoreboard(other).index) == [1]


# Whether a service is well


def test_a_verdict_says_what_is_lacking():
    assert Verdict((), 2, 60).well
    assert str(Verdict((), 2, 60)).startswith("2 tasks running and healthy")
    assert str(Verdict(("one", "two"))) == "one; two"


def templated(aws: Answers, body: str) -> None:
    aws.answers["cloudformation", "GetTemplate"] = {"TemplateBody": body}


def test_a_shop_with_an_unhealthy_target_and_no_breaker_is_not_well(aws: Answers):
    shop.open_shop(aws, states=("healthy", "unhealthy"))
    templated(aws, template("08").body)
    told = " ".join(examine(Place("shop", "us-east-1")))
    assert "2 desired, 2 running, 1 healthy tasks" in told
    assert "targets are unhealthy" in told
    assert "the circuit breaker is off" in told
    assert "auto scaling" not in told  # as the template has it


def test_the_stacks_own_template_says_how_many_tasks_there_may_be(aws: Answers):
    shop.open_shop(aws)
    templated(aws, template("08").body.replace("MinCapacity: 2", "MinCapacity: 4"))
    assert "auto scaling keeps 2 to 10 tasks, the stack's template says 4 to 10" in examine(
        Place("shop", "us-east-1")
    )


def test_what_is_set_wrongly_is_told_as_soon_as_all_is_at_rest(aws: Answers, monkeypatch):
    shop.open_shop(aws)
    templated(aws, template("08").body)
    looks = []
    lab = SimpleNamespace(now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
    monkeypatch.setattr(session, "current", lambda: lab)
    monkeypatch.setattr(wellness, "CALM", 0.0)
    monkeypatch.setattr(wellness, "polls", lambda minutes: (looks.append(1) for _ in range(100)))
    monkeypatch.setattr(wellness, "_stopped_since", lambda place, moment: [])
    monkeypatch.setattr(wellness, "unrest", lambda place: [])
    verdict = wellness.until_well(Place("shop", "us-east-1"))
    assert verdict.lacking == ("the circuit breaker is off",)
    assert len(looks) == 1
    assert repr(verdict) == "Not well yet: the circuit breaker is off. AWS time is paused again."
    assert repr(Verdict((), 2, 60)).startswith("Well: 2 tasks")


def test_what_counts_as_an_error_is_what_a_visitor_would_call_one():
    assert errors({200: 5, 404: 2, 502: 1, 0: 3}) == 4
