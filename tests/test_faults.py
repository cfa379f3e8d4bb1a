"""Every fault on a real service: what shows, in AWS's words; what the doctor says first; and that `mend` mends it.

One sandbox for all, one fault after the other. The matrix of faults and rules is printed at the end, and written to the
file that FAULT_MATRIX names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from helpers import connection
from helpers.connection import Lab
from helpers.diagnosis.finding import LIKELY
from helpers.diagnosis.table import RULES
from helpers.errors import TutorialError
from helpers.faults import FAULTS, scaling, scoreboard, take_up
from helpers.faults.place import Place
from tests import faulty

SPEED = 60.0
SEED = 5
SAYS = {  # what AWS says somewhere in stopped tasks, events or target health
    "image-missing": "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref",
    "architecture": "Essential container in task exited",
    "execution-role": "",  # depends on what is denied: tests of helpers/sandbox/ecs/preparation.py
    "trust-policy": "ECS was unable to assume the role",
    "log-permissions": "not authorized to perform: logs:CreateLogStream",
    "security-group": "Target.Timeout",
    "no-way-out": "ResourceInitializationError: unable to pull secrets or registry auth",
    "health-check-path": "Health checks failed with these codes: [404]",
    "health-check-port": "Health checks failed",
    "grace-period": "Task failed ELB health checks in",
    "app-exits": "Essential container in task exited",
    "command-not-found": "Essential container in task exited",
    "out-of-memory": "OutOfMemoryError: Container killed due to memory usage",
    "keep-alive": "deployment completed",  # and yet
    "sigterm-lost": "Task retirement",
    "two-policies": "has started",
    "log-group-missing": "The specified log group does not exist",
    "desired-count": "has stopped",
}
EXIT_CODES = {"app-exits": 1, "command-not-found": 127, "out-of-memory": 137, "sigterm-lost": 137}
matrix: dict[str, list[tuple[str, int]]] = {}  # the rules that found something, the first one first
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = tmp_path_factory.mktemp("faults") / "sandbox"
    with faulty.lab_of(state, SPEED):
        yield state


@pytest.fixture
def lab(state: Path) -> Lab:
    """Connected anew, since no test keeps another's environment."""
    return connection.connect(name=faulty.NAME, speed=SPEED)


def test_the_service_is_well_to_begin_with(lab):
    diagnosis = lab.diagnose()
    assert diagnosis.healthy, diagnosis
    assert take_up(lab) is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows_is_diagnosed_and_mended(lab, name):
    broken = lab.break_it(name, seed=SEED)
    try:
        assert lab.is_paused
        told = said(Place(lab.name, lab.region))
        assert SAYS[name] in told, told
        if name in EXIT_CODES:
            assert f"exit code {EXIT_CODES[name]}" in told, told
        diagnosis = lab.diagnose()
        matrix[name] = [(cause.rule, cause.weight) for cause in diagnosis.causes]
    finally:
        broken.mend()
        verdict = broken.verify()
    assert verdict.well, verdict
    assert not lab.is_paused
    assert take_up(lab) is None
    assert list(scoreboard(lab)["fault"])[-1] == name
    assert diagnosis.causes, "the doctor finds nothing"
    assert diagnosis.causes[0].rule == name, diagnosis
    after = [cause.rule for cause in lab.diagnose().causes if cause.weight >= LIKELY]
    assert name not in after


def said(place: Place) -> str:
    """All that AWS says of the service now."""
    tasks = [
        f"{task.get('stoppedReason')} {container.get('reason', '')} exit code {container.get('exitCode')}"
        for task in place.service.stopped_tasks()
        for container in task["containers"]
    ]
    health = [f"{entry.get('Reason')} {entry.get('Description')}" for entry in place.target_health]
    return "\n".join([*tasks, *place.events(), *health])


def test_breaking_a_broken_service_says_so_in_any_notebook(lab):
    broken = lab.break_it("health-check-path", seed=1)
    again = connection.connect(name=faulty.NAME, speed=SPEED)
    with pytest.raises(TutorialError, match="broken already") as refused:
        again.break_it("health-check-port")
    assert "health-check-path" in refused.value.seen
    assert again.break_it("health-check-path", seed=1).minutes >= 0  # the same one is handed out again
    taken = take_up(again)
    assert taken.reveal() == broken.reveal()
    taken.mend()
    assert taken.verify().well


def test_mend_leads_to_well_from_wrong_cures_too(lab):
    """What is usually tried: the port opened to everybody, a laxer health check, another role's trust, more tasks, fewer."""
    broken = lab.break_it("security-group", seed=SEED)
    place, ec2, elbv2 = Place(lab.name, lab.region), boto3.client("ec2"), boto3.client("elbv2")
    anywhere = {"IpProtocol": "tcp", "FromPort": 3000, "ToPort": 3000, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(
        GroupId=place.resource("TaskSecurityGroup"), IpPermissions=[anywhere]
    )
    elbv2.modify_target_group(
        TargetGroupArn=place.resource("TargetGroup"), HealthCheckPath="/", HealthCheckPort="80"
    )
    role, of = place.resource("TaskExecutionRole"), scaling.of_service(place)
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ecr:*", "Resource": "*"}]}
    boto3.client("iam").put_role_policy(RoleName=role, PolicyName="try", PolicyDocument=json.dumps(deny))
    boto3.client("logs").delete_log_group(logGroupName=f"/ecs/{lab.name}")
    autoscaling, count = boto3.client("application-autoscaling"), "ecs:service:DesiredCount"
    autoscaling.delete_scaling_policy(**of, ScalableDimension=count, PolicyName=f"{lab.name}-cpu")
    autoscaling.register_scalable_target(**of, ScalableDimension=count, MinCapacity=0, MaxCapacity=1)
    place.deploy({"command": ["node", "nothing.js"]})
    place.update(desiredCount=0)
    broken.mend()
    verdict = broken.verify()
    assert verdict.well, verdict
    assert lab.diagnose().healthy


def test_the_right_cause_ranks_first_everywhere(capsys):
    if set(matrix) != set(FAULTS):
        pytest.skip("not all faults were tried")
    table = drawn()
    with capsys.disabled():
        print(f"\n{table}")
    if file := os.environ.get("FAULT_MATRIX"):
        Path(file).write_text(table + "\n", encoding="utf-8")
    assert {name: row[0][0] for name, row in matrix.items() if row} == {name: name for name in FAULTS}


def drawn() -> str:
    """A line per fault, a column per rule that found something: its weight, the first one's in brackets."""
    rules = [rule for rule in RULES if any(rule in dict(row) for row in matrix.values())]
    width = max(map(len, FAULTS))
    lines = [" " * width + " " + "".join(f"{number:>5}" for number in range(1, len(rules) + 1))]
    for name in FAULTS:
        weights = {rule: str(weight) for rule, weight in reversed(matrix[name])}
        if matrix[name]:
            weights[matrix[name][0][0]] = f"[{matrix[name][0][1]}]"
        lines.append(f"{name:<{width}} " + "".join(f"{weights.get(rule, '·'):>5}" for rule in rules))
    legend = ", ".join(f"{number} {rule}" for number, rule in enumerate(rules, 1))
    return "\n".join([*lines, f"rules: {legend}", "the weight of each finding; the first one's in brackets"])
