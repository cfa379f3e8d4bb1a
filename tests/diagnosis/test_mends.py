"""What the doctor says where a service is not at rest, of sidecars, of a breaker without a rollback, and of sizes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from helpers.diagnose import judge
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.fargate import SIZES, next_size
from helpers.diagnosis.permissions import allows
from tests.diagnosis.recorded import NOW, event, failing, healthy
from tests.diagnosis.test_reasoning import PULL, REPOSITORY, statement

PLACE = "(service shop) was unable to place a task. Reason: "


@pytest.mark.parametrize(
    "reason",
    [
        "Capacity is unavailable at this time. Please try again later or in a different availability zone.",
        "You've reached the limit on the number of vCPUs you can run concurrently. For more information, see the "
        "Troubleshooting section of the Amazon ECS Developer Guide.",
        "RESOURCE:ENI.",
    ],
)
def test_a_task_for_which_there_is_no_room_is_not_well(reason):
    diagnosis = judge(Evidence(event(failing(tasks=0), PLACE + reason)))
    assert (diagnosis.status, diagnosis.causes[0].rule) == (1, "capacity")
    assert ("L-3032A538" in diagnosis.causes[0].fix) == ("vCPUs" in reason)


def test_an_event_that_no_rule_knows_is_trouble():
    diagnosis = judge(Evidence(event(failing(tasks=0), PLACE + "Something new.")))
    assert diagnosis.status == 1
    assert "Something new" in str(diagnosis)


def test_what_is_young_is_well_so_far_and_what_is_old_is_not():
    young = judge(Evidence(failing(tasks=0)))
    assert (young.status, young.healthy) == (2, False)
    assert "Nothing wrong so far, not at rest yet." in str(young)
    answers = failing(tasks=0)
    answers["service"]["deployments"][0]["createdAt"] = NOW - timedelta(hours=1)
    assert "nothing that was read says why" in str(judge(Evidence(answers)))


def test_a_stack_that_was_named_and_not_read_is_not_well():
    answers = {name: answer for name, answer in healthy().items() if name != "stack"}
    assert judge(Evidence(answers)).healthy
    assert judge(Evidence(answers), wanted=("service", "stack")).status == 2


@pytest.mark.parametrize("told", [False, True])
def test_the_breaker_went_back_only_if_that_is_told(told):
    answers = failing(code=1, lines=["Error: no"])
    reason = "ECS deployment circuit breaker: tasks failed to start."
    answers["service"]["deployments"][0] |= {"rolloutState": "FAILED", "rolloutStateReason": reason}
    answers["stack"]["StackStatus"] = "CREATE_IN_PROGRESS"
    if told:
        event(answers, "(service shop) rolling back to deployment ecs-svc/1.")
    (cause,) = (c.cause for c in judge(Evidence(answers)).causes if c.rule == "breaker-rolled-back")
    assert ("went back" in cause, "nothing took its place" in cause) == (told, not told)


@pytest.mark.parametrize("last", [False, True])
def test_the_app_is_judged_and_not_its_sidecar(last):
    answers = failing(code=3, lines=["Error: no DATABASE_URL"])
    for task in answers["stopped"]:
        task["containers"].insert(1 if last else 0, {"name": "proxy", "exitCode": 0})
    assert "exit code 3" in judge(Evidence(answers)).causes[0].cause


@pytest.mark.parametrize(
    ("size", "larger"),
    [
        ((256, 512), (256, 1024)),
        ((256, 2048), (512, 4096)),
        ((1024, 8192), (2048, 16384)),
        ((4096, 30720), (8192, 61440)),
        ((16384, 122880), None),
    ],
)
def test_the_next_size_is_one_that_fargate_has(size, larger):
    assert next_size(*size) == larger
    if larger:
        least, most, step = SIZES[larger[0]]
        assert least <= larger[1] <= most
        assert (larger[1] - least) % step == 0


def test_more_memory_than_the_cpu_allows_raises_that_too():
    answers = failing("OutOfMemoryError: Container killed due to memory usage", code=137)
    answers["task_definition"] |= {"cpu": "256", "memory": "2048"}
    fix = judge(Evidence(answers)).causes[0].fix
    assert "+      Memory: '4096'" in fix
    assert "+      Cpu: '512'" in fix


def test_a_deny_that_may_apply_makes_it_uncertain_in_any_order():
    perhaps = statement("Deny", Condition={"Bool": {"x": "y"}})
    for statements in ([perhaps, statement()], [statement(), perhaps]):
        assert allows([{"Statement": statements}], PULL, REPOSITORY) is None
    assert allows([{"Statement": [perhaps]}], PULL, REPOSITORY) is False
