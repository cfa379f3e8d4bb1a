"""The doctor's rules of the network and of health checks that time out: what is certain, what is not, and what to do."""

from __future__ import annotations

from helpers.diagnose import judge
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import LIKELY, NOTED, POSSIBLE, SHOWN, Finding
from helpers.diagnosis.table import examine
from tests.diagnosis.recorded import event, failing, healthy, unwell

LOCAL = {"DestinationCidrBlock": "172.31.0.0/16", "GatewayId": "local", "State": "active"}
KILLED = "Task failed ELB health checks in (target-group arn:aws:elasticloadbalancing:x)"


def found(answers: dict) -> dict[str, Finding]:
    return {finding.rule: finding for finding in examine(Evidence(answers))}


def timing_out(answers: dict | None = None) -> dict:
    killed = failing(stopped=KILLED, code=143, stop_code="ServiceSchedulerInitiated")
    return unwell(answers or killed, "Target.Timeout", "Request timed out")


def test_closed_groups_are_only_noted_while_the_targets_are_well():
    answers = healthy()
    for group in answers["security_groups"]:
        group["IpPermissions"] = []
    assert found(answers)["security-group"].weight == NOTED
    assert judge(Evidence(answers)).healthy


def test_no_way_out_is_at_most_possible_while_tasks_of_the_revision_run_at_rest():
    answers = healthy()
    answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = "DISABLED"
    assert found(answers)["no-way-out"].weight == POSSIBLE
    answers["running"] = []
    assert found(answers)["no-way-out"].weight == SHOWN


def test_endpoints_in_a_hub_are_no_fault():
    answers = healthy()
    answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = "DISABLED"
    hub = {"DestinationCidrBlock": "10.0.0.0/8", "TransitGatewayId": "tgw-1", "State": "active"}
    answers["route_tables"][0]["Routes"] = [LOCAL, hub]
    assert "no-way-out" not in found(answers)


def test_the_route_is_made_in_the_table_of_the_closed_subnet():
    answers = failing(tasks=0)
    (main,) = answers["route_tables"]
    subnet = answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["subnets"][1]
    own = {"RouteTableId": "rtb-own", "Associations": [{"SubnetId": subnet}], "Routes": [LOCAL]}
    answers["route_tables"] = [main, own]
    fix = found(answers)["no-way-out"].fix
    assert 'RouteTableId="rtb-own"' in fix
    assert main["RouteTableId"] not in fix


def test_timeouts_behind_open_ways_are_an_app_that_answers_too_late():
    answers = timing_out()
    causes = found(answers)
    assert causes["slow-answers"].weight == LIKELY
    assert causes["grace-period"].weight <= POSSIBLE
    assert "HealthCheckTimeoutSeconds, 5 s" in causes["slow-answers"].cause
    assert judge(Evidence(answers)).causes[0].rule == "slow-answers"
    answers["network_acls"] = None  # not read
    causes = found(answers)
    assert causes["slow-answers"].weight == POSSIBLE
    assert "ACLs were not read" in causes["security-group"].cause
    assert "Compare the ACLs' rules with port 3000 in and 1024-65535 out" in causes["security-group"].fix


def test_slow_answers_stand_below_a_closed_security_group():
    answers = timing_out()
    for group in answers["security_groups"]:
        group["IpPermissions"] = []
    causes = found(answers)
    assert causes["slow-answers"].weight < causes["security-group"].weight
    assert judge(Evidence(answers)).causes[0].rule == "security-group"


def test_a_refused_connection_is_still_the_grace_period():
    said = (
        "(service shop) (port 3000) is unhealthy in (target-group shop) due to (reason Health checks failed)."
    )
    answers = event(timing_out(), said)
    answers["service"]["healthCheckGracePeriodSeconds"] = 0
    assert found(answers)["grace-period"].weight >= LIKELY


def test_a_network_acl_that_drops_the_answers_is_named():
    answers = timing_out()
    (acl,) = answers["network_acls"]
    allowed = next(each for each in acl["Entries"] if each["Egress"] and each["RuleAction"] == "allow")
    allowed |= {"Protocol": "6", "PortRange": {"From": 443, "To": 443}}
    cause = judge(Evidence(answers)).causes[0]
    assert (cause.rule, cause.weight) == ("security-group", SHOWN)
    assert acl["NetworkAclId"] in cause.cause
    assert "create_network_acl_entry" in cause.fix
