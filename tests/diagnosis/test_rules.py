"""Every rule on answers that were recorded of a healthy service and changed; and that none fires on the healthy one."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.diagnose import judge
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.reader import ASKED
from helpers.diagnosis.table import RULES, examine
from tests.diagnosis.recorded import NOW, changed, event, failing, healthy, stack_event, unwell
from tests.diagnosis.test_reports import CASES

CONTRACT = {
    "target-group-unattached",
    "security-group",
    "health-check-path",
    "health-check-port",
    "grace-period",
    "no-way-out",
    "image-missing",
    "image-reference",
    "architecture",
    "execution-role",
    "trust-policy",
    "log-permissions",
    "app-exits",
    "command-not-found",
    "out-of-memory",
    "breaker-rolled-back",
    "no-circuit-breaker",
    "log-group-missing",
    "repository-not-empty",
    "desired-count",
    "resource-id",
    "metric-gaps",
    "two-policies",
    "scale-in-held",
    "keep-alive",
    "sigterm-lost",
}


def first(answers: dict) -> str:
    diagnosis = judge(Evidence(answers))
    return diagnosis.causes[0].rule if diagnosis.causes else ""


def test_every_id_has_a_row_and_every_row_its_own_id():
    assert set(RULES) >= CONTRACT
    assert all(rule.id == name and rule.layer and rule.symptom for name, rule in RULES.items())


def test_nothing_fires_on_a_healthy_service():
    diagnosis = judge(Evidence(healthy()))
    assert (diagnosis.causes, diagnosis.healthy, diagnosis.status) == ((), True, 0)
    assert set(diagnosis.checked) == set(ASKED) - {
        "logs",
        "image_platforms",
    }  # no failed task, no index of images
    assert "Nothing wrong" in str(diagnosis)
    assert "security groups" in str(diagnosis), "it says what was checked"


def test_nothing_fires_on_a_service_that_is_just_being_deployed():
    answers = failing(tasks=0)
    assert judge(Evidence(answers)).causes == ()
    assert "not at rest" in str(judge(Evidence(answers)))


# A row a case: changes of a healthy service's answers, and what comes first.


def crashes() -> dict:
    return failing(code=1, lines=["starting", "Error: no DATABASE_URL", "    at main (server.js:3:9)"])


def killed_twice() -> dict:
    return failing(code=137, lines=["starting"])


def closed_both_ways() -> dict:
    answers = unwell(healthy(), "Target.Timeout", "Request timed out")
    for group in answers["security_groups"]:
        group["IpPermissions"] = []
    return answers


def wrong_path() -> dict:
    answers = unwell(healthy(), "Target.ResponseCodeMismatch", "Health checks failed with these codes: [404]")
    answers["target_groups"][0]["HealthCheckPath"] = "/healthz"
    return answers


def judged_too_early() -> dict:
    answers = failing(
        stopped="Task failed ELB health checks in (target-group arn:aws:elasticloadbalancing:x)",
        code=143,
        stop_code="ServiceSchedulerInitiated",
        lines=["loading the price list"],
    )
    answers["service"]["healthCheckGracePeriodSeconds"] = 0
    return unwell(answers, "Target.FailedHealthChecks", "Health checks failed")


def rolled_back_for(answers: dict) -> dict:
    """The failed deployment's tasks are stopped, and the service runs on its former revision."""
    good = healthy()["service"]
    good["deployments"][0] |= {"createdAt": NOW - timedelta(hours=1)}
    for task in answers["stopped"]:
        task["taskDefinitionArn"] = "arn:aws:ecs:us-east-1:123456789012:task-definition/shop:99"
    answers["service"] = good
    event(answers, "(service shop) (deployment ecs-svc/9) deployment failed: tasks failed to start.", 2)
    return event(answers, "(service shop) rolling back to deployment ecs-svc/1.", 1)


def without_breaker(answers: dict) -> dict:
    answers["service"]["deploymentConfiguration"]["deploymentCircuitBreaker"] = {"enable": False}
    answers["stack"]["StackStatus"] = "UPDATE_IN_PROGRESS"
    return answers


def no_listener() -> dict:
    answers = unwell(healthy(), "Target.NotInUse")
    answers["target_groups"][0]["LoadBalancerArns"] = []
    return answers


def blind() -> dict:
    answers = healthy()
    answers["alarms"][0] |= {
        "StateValue": "INSUFFICIENT_DATA",
        "StateReason": "Insufficient Data: 3 datapoints were unknown.",
        "StateUpdatedTimestamp": NOW - timedelta(hours=2),
    }
    return answers


def above_the_minimum(answers: dict) -> dict:
    answers["service"]["desiredCount"] = answers["service"]["runningCount"] = 6
    for alarm in answers["alarms"]:
        if "AlarmLow" in alarm["AlarmName"]:
            alarm |= {"StateValue": "ALARM", "StateUpdatedTimestamp": NOW - timedelta(minutes=30)}
    return answers


def two() -> dict:
    answers = above_the_minimum(healthy())
    name = "TargetTracking-service/shop/shop-AlarmLow-memory"
    second = answers["policies"][0] | {"PolicyName": "shop-memory", "Alarms": [{"AlarmName": name}]}
    answers["policies"].append(second)
    answers["alarms"].append({"AlarmName": name, "StateValue": "OK", "MetricName": "MemoryUtilization"})
    return answers


def held() -> dict:
    answers = above_the_minimum(healthy())
    answers["service"]["deployments"][0]["rolloutState"] = "IN_PROGRESS"
    return answers


def not_allowed_to_scale_in() -> dict:
    answers = above_the_minimum(healthy())
    answers["policies"][0]["TargetTrackingScalingPolicyConfiguration"]["DisableScaleIn"] = True
    return answers


def other_trust() -> dict:
    answers = healthy()
    for statement in answers["execution_role"]["AssumeRolePolicyDocument"]["Statement"]:
        statement["Principal"] = {"Service": "ec2.amazonaws.com"}
    return answers


def without(action: str) -> dict:
    answers = healthy()
    for policy in answers["execution_policies"]:
        for statement in policy["document"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            statement["Action"] = [each for each in actions if each != action]
    return answers


def private() -> dict:
    answers = failing(tasks=0)
    answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = "DISABLED"
    return answers


def by_another_port() -> dict:
    return failing(container={"environment": [{"name": "PORT", "value": "8080"}]}, tasks=0)


TABLE = {
    "an app that ends": ("app-exits", crashes),
    "an app that is killed": ("out-of-memory", killed_twice),
    "no heap left": (
        "out-of-memory",
        lambda: failing(
            code=134,
            lines=["FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"],
        ),
    ),
    "a shell that finds no program": (
        "command-not-found",
        lambda: failing(code=127, lines=["sh: 1: nod: not found"]),
    ),
    "closed security groups": ("security-group", closed_both_ways),
    "another path": ("health-check-path", wrong_path),
    "judged too early": ("grace-period", judged_too_early),
    "rolled back for its app": ("app-exits", lambda: rolled_back_for(crashes())),
    "rolled back, the tasks forgotten": ("breaker-rolled-back", lambda: rolled_back_for(failing(tasks=0))),
    "a stack that hangs": ("app-exits", lambda: without_breaker(crashes())),
    "a stack that hangs, nothing known": (
        "no-circuit-breaker",
        lambda: without_breaker(failing("Some new error", stopped="Some new error")),
    ),
    "no listener": ("target-group-unattached", no_listener),
    "an alarm without data": ("metric-gaps", blind),
    "two policies": ("two-policies", two),
    "a deployment holds scaling in": ("scale-in-held", held),
    "DisableScaleIn": ("scale-in-held", not_allowed_to_scale_in),
}
# All tasks run and answer, or have only just been asked to: what would keep the next one from it.
WAITING = {
    "another service trusted": ("trust-policy", other_trust),
    "no BatchGetImage": ("execution-role", lambda: without("ecr:BatchGetImage")),
    "no CreateLogStream": ("log-permissions", lambda: without("logs:CreateLogStream")),
    "no public address": ("no-way-out", private),
    "the log group is gone": ("log-group-missing", lambda: healthy() | {"log_groups": []}),
    "the image is gone": (
        "image-missing",
        lambda: healthy() | {"image": {"missing": "ImageNotFoundException: …"}},
    ),
    "an image for others": (
        "architecture",
        lambda: healthy() | {"image_platforms": {"platforms": ["arm64"]}},
    ),
    "another port by the environment": ("health-check-port", by_another_port),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_to_happen_is_a_note_while_all_is_well(name):
    rule, answers = WAITING[name]
    diagnosis = judge(Evidence(answers()))
    assert (diagnosis.causes, [note.rule for note in diagnosis.notes]) == ((), [rule])
    assert diagnosis.status in (0, 2)
    assert "Nothing wrong" in str(diagnosis)
    assert "when the next task starts" in str(diagnosis)


@pytest.mark.parametrize("name", WAITING)
def test_and_the_cause_once_a_deployment_gets_nowhere(name):
    rule, answers = WAITING[name]
    stuck = answers()
    began = NOW - timedelta(hours=1)
    stuck["service"]["deployments"][0] |= {"rolloutState": "IN_PROGRESS", "createdAt": began}
    stuck["service"]["runningCount"] = 0
    diagnosis = judge(Evidence(stuck))
    assert (diagnosis.causes[0].rule, diagnosis.notes) == (rule, ())


@pytest.mark.parametrize("name", TABLE)
def test_the_right_cause_comes_first(name):
    rule, answers = TABLE[name]
    diagnosis = judge(Evidence(answers()))
    assert first(answers()) == rule, str(diagnosis)
    assert diagnosis.causes[0].probable or rule == "two-policies", "whether it is meant so, nobody can read"
    assert (diagnosis.healthy, diagnosis.status) == (False, 1)


def test_every_rule_of_the_contract_comes_first_somewhere():
    tables = [*TABLE.values(), *WAITING.values()]
    assert {rule for _, rule, _ in CASES.values()} | {rule for rule, _ in tables} >= CONTRACT


def test_what_follows_from_the_cause_stands_below_it():
    found = [finding.rule for finding in examine(Evidence(rolled_back_for(crashes())))]
    assert found.index("app-exits") < found.index("breaker-rolled-back")
    found = [finding.rule for finding in examine(Evidence(without_breaker(crashes())))]
    assert found[:2] == ["app-exits", "no-circuit-breaker"]


def test_what_is_over_is_not_told():
    answers = crashes()
    answers["service"] = healthy()["service"]
    answers["target_health"] = healthy()["target_health"]
    assert judge(Evidence(answers)).healthy


def test_an_app_that_ends_again_and_again_is_told_though_the_service_rests_between():
    answers = crashes()
    rests = healthy()["service"]
    for task in answers["stopped"]:
        task["startedBy"] = rests["deployments"][0]["id"]
    assert first(answers | {"service": rests}) == "app-exits"


def test_502s_while_a_task_ends_are_no_sign_of_a_keep_alive():
    answers = healthy()
    ended = NOW - timedelta(minutes=10)
    answers["stopped"] = [{"taskArn": "task/shop/1", "stoppedAt": ended, "stopCode": "UserInitiated"}]
    answers["metrics"] = {"HTTPCode_ELB_502_Count": [{"time": ended, "value": 40.0}]}
    assert judge(Evidence(answers)).healthy


def test_trouble_that_no_rule_knows_is_told_in_awss_words():
    diagnosis = judge(Evidence(failing(stopped="A new kind of error", reason="Some new error")))
    assert "A new kind of error" in str(diagnosis)
    assert (diagnosis.healthy, diagnosis.status) == (False, 1)


def test_the_less_likely_are_marked_with_the_call_that_decides():
    answers = unwell(
        failing(stopped="Task failed ELB health checks"), "Target.FailedHealthChecks", "Health checks failed"
    )
    told = str(judge(Evidence(answers)))
    assert "Less likely" in told
    assert "to decide:" in told


def test_every_less_likely_one_says_what_would_decide():
    for build in BUILDS:
        assert all(finding.decide for finding in examine(Evidence(build())) if not finding.probable)


# Fixes


def test_a_long_fix_is_broken_into_lines():
    for build in BUILDS:
        lines = [line for finding in examine(Evidence(build())) for line in finding.fix.splitlines()]
        long = [line for line in lines if len(line) > 100]
        assert not [
            line for line in long if not any(word in line for word in ("arn:", "docker", "Statement", "#"))
        ]


def test_the_fix_of_a_security_group_names_the_groups_and_the_port():
    answers = closed_both_ways()
    own = answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["securityGroups"][0]
    other = answers["load_balancers"][0]["SecurityGroups"][0]
    fix = judge(Evidence(answers)).causes[0].fix
    for words in ("authorize_security_group_ingress", own, other, "3000"):
        assert words in fix


def test_without_a_security_group_the_default_one_is_named():
    answers = unwell(failing(stopped="Task failed ELB health checks"), "Target.Timeout")
    own = answers["service"]["networkConfiguration"]["awsvpcConfiguration"].pop("securityGroups")
    for group in answers["security_groups"]:
        if group["GroupId"] in own:
            members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": own[0]}]}
            group |= {"GroupName": "default", "IpPermissions": [members]}
    cause = judge(Evidence(answers)).causes[0]
    assert cause.rule == "security-group"
    assert "names no security group" in cause.cause
    assert "+          SecurityGroups: [!Ref TaskSecurityGroup]" in cause.fix


def test_a_fix_of_the_template_is_a_short_diff_with_its_own_names():
    answers = failing("OutOfMemoryError: killed", code=137)
    lines = judge(Evidence(answers)).causes[0].fix.splitlines()
    assert lines[:3] == ["--- template", "+++ template", "@@ TaskDefinition @@"]
    assert "-      Memory: '512'" in lines
    assert "+      Memory: '1024'" in lines
    assert len(lines) <= 8


def test_the_path_that_the_stack_was_given_is_the_one_to_go_back_to():
    assert 'HealthCheckPath="/healthcheck"' in judge(Evidence(wrong_path())).causes[0].fix


def test_every_fix_of_python_is_python():
    for _, build in TABLE.values():
        for finding in examine(Evidence(build())):
            if finding.fix.startswith("boto3.") and "#" not in finding.fix and "\n@@" not in finding.fix:
                compile(finding.fix.split("\nor ")[0].split("\n---")[0], finding.rule, "exec")


def test_it_reads_well_at_a_hundred_columns():
    for _, build in TABLE.values():
        text = str(judge(Evidence(build())))
        # What is to be copied is not wrapped, nor is a name that is longer than a line.
        prose = [line for line in text.splitlines() if not line.startswith("    ") and " " in line.strip()]
        assert all(len(line) <= 100 for line in prose), max(prose, key=len)


def test_what_a_role_lacks_is_allowed_as_narrowly_as_can_be():
    fix = judge(Evidence(healthy() | {"execution_policies": []})).notes[0].fix
    policy = json.loads(fix.split("'''")[1])
    token, images = policy["Statement"]
    assert (token["Action"], token["Resource"]) == (["ecr:GetAuthorizationToken"], "*")
    assert images["Resource"].endswith(":repository/shop")
    wanted = ("ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    mended = {"name": "pull", "document": policy}
    after = examine(Evidence(healthy() | {"execution_policies": [mended]}))
    assert [finding.rule for finding in after] == ["log-permissions"]
    assert {*token["Action"], *images["Action"]} == set(wanted)


def test_a_task_role_that_is_not_assumed_is_named():
    said = "ECS was unable to assume the role 'arn:aws:iam::123456789012:role/shop-TaskRole-1' that was provided for this task."
    answers = event(failing(tasks=0), f"service shop failed to launch a task with (error {said})")
    cause = judge(Evidence(answers)).causes[0]
    assert cause.rule == "trust-policy"
    assert "shop-TaskRole-1" in cause.cause
    assert 'RoleName="shop-TaskRole-1"' in cause.fix


# What is not there is no error


def test_without_permissions_it_says_what_was_not_read():
    denied = dict.fromkeys(ASKED, "AccessDeniedException: no")
    diagnosis = judge(Evidence({"now": NOW, "names": {"service": "shop", "cluster": "shop"}}, denied))
    assert (diagnosis.healthy, diagnosis.status, diagnosis.causes) == (False, 2, ())
    assert "AccessDeniedException: no" in str(diagnosis)
    assert "ecs describe_services" in str(diagnosis)


def test_what_was_not_read_does_not_hide_what_was():
    answers = {name: answer for name, answer in closed_both_ways().items() if name != "stack"}
    diagnosis = judge(Evidence(answers, {"stack": "AccessDenied: no"}))
    assert diagnosis.causes[0].rule == "security-group"
    assert "AccessDenied: no" in str(diagnosis)


def paths(value: object, path: tuple = ()) -> list[tuple]:
    """All places in nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in [(*path, key), *paths(each, (*path, key))]]


def take_out(answers: dict, path: tuple) -> None:
    *way, last = path
    place = answers
    for key in way:
        try:
            place = place[key]
        except (KeyError, IndexError, TypeError):
            return  # it went with something else
    if isinstance(place, dict):
        place.pop(last, None)
    elif isinstance(place, list) and last < len(place):
        place.pop(last)


BUILDS = [build for _, build in [*TABLE.values(), *WAITING.values()]] + [
    build for _, _, build in CASES.values()
]


@settings(max_examples=150)
@given(st.data())
def test_no_rule_minds_what_is_missing(data):
    answers = data.draw(st.sampled_from(BUILDS))()
    places = paths(answers)
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=25)):
        take_out(answers, place)
    str(judge(Evidence(answers)))


@pytest.mark.parametrize("name", ASKED)
def test_no_rule_minds_an_answer_that_was_not_read(name):
    for build in BUILDS:
        str(judge(Evidence({key: value for key, value in build().items() if key != name})))


def test_a_stack_that_failed_is_explained_without_its_service():
    answers = stack_event(
        changed(service=None).answers,
        "AWS::ECS::Service",
        "CREATE_FAILED",
        "The target group with targetGroupArn x does not have an associated load balancer.",
    )
    answers["template"] = answers["template"].replace("    DependsOn: Listener\n", "")
    fix = judge(Evidence(answers)).causes[0].fix
    assert "+    DependsOn: Listener" in fix
