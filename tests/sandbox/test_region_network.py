"""The failure that people meet most: the tasks' security group does not let the load balancer in. A whole sandbox."""

from __future__ import annotations

import re
import socket

import pytest

from helpers import sandbox
from tests.sandbox.live import PAGE, REGION, Live, get, write_app
from tests.sandbox.served import serve

NAME = "guarded"
ANYBODY = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    state = tmp_path_factory.mktemp("network") / "state"
    yield Live(state, speed=60)
    sandbox.stop(state)


@pytest.fixture(scope="module")
def served(live, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": live.here.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }.items():
            patch.setenv(name, value)
        image = live.push(write_app(tmp_path_factory.mktemp("app") / "app", PAGE % "hello"), NAME)
    return serve(live, NAME, image, delay=10)


def test_a_revoked_rule_replaces_tasks_until_it_is_authorized_again(live, served):
    """Service events and stoppedReason as ECS writes them: reported in many places, github.com/boltops-tools/ufo's
    health checks page for one (C); target health: ELB API reference, TargetHealth (A)."""
    ec2 = live.aws("ec2")
    (service,) = live.aws("ecs").describe_services(cluster=NAME, services=[NAME])["services"]
    (group,) = service["networkConfiguration"]["awsvpcConfiguration"]["securityGroups"]
    # The tasks get a group of their own: the load balancer's goes on letting clients in.
    own = ec2.create_security_group(
        GroupName="tasks",
        Description="tasks",
        VpcId=ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["VpcId"],
    )["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 3000, "ToPort": 3000, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=own, IpPermissions=[rule])
    network = service["networkConfiguration"]["awsvpcConfiguration"] | {"securityGroups": [own]}
    served.update(networkConfiguration={"awsvpcConfiguration": network})
    assert get(served.url) == "hello"
    assert served.targets() == ["healthy"]

    ec2.revoke_security_group_ingress(GroupId=own, IpPermissions=[rule])
    elbv2 = live.aws("elbv2")
    seen: set[tuple[str, ...]] = set()

    def two_were_replaced() -> list[dict]:
        described = elbv2.describe_target_health(TargetGroupArn=served.group)["TargetHealthDescriptions"]
        seen.update(tuple(one["TargetHealth"].values()) for one in described)
        reasons = [task for task in served.stopped() if "ELB" in task["stoppedReason"]]
        return reasons if len(reasons) >= 2 else []

    stopped = live.until(two_were_replaced, seconds=60)
    assert ("unhealthy", "Target.Timeout", "Request timed out") in seen
    for task in stopped:
        assert task["stopCode"] == "ServiceSchedulerInitiated"
        assert task["stoppedReason"] == f"Task failed ELB health checks in (target-group {served.group})"
    told = [event["message"] for event in served.describe()["events"]]
    wording = (
        rf"\(service {NAME}\) \(task [0-9a-f]{{32}}\) \(port 3000\) is unhealthy in "
        rf"\(target-group {re.escape(served.group)}\) due to \(reason Request timed out\)\."
    )
    assert sum(bool(re.fullmatch(wording, message)) for message in told) >= 2

    ec2.authorize_security_group_ingress(GroupId=own, IpPermissions=[rule])
    live.until(lambda: served.is_steady() and served.targets() == ["healthy"], seconds=60)
    assert get(served.url) == "hello"


def test_a_load_balancer_without_ingress_does_not_answer_its_clients(live, served):
    ec2 = live.aws("ec2")
    balancers = live.aws("elbv2").describe_load_balancers(Names=[NAME])["LoadBalancers"]
    (group,) = balancers[0]["SecurityGroups"]
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[ANYBODY])
    try:
        live.until(lambda: _hangs(balancers[0]["DNSName"]))
        assert served.targets() == ["healthy"]
    finally:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ANYBODY])
    live.until(lambda: not _hangs(balancers[0]["DNSName"]))
    assert get(served.url) == "hello"


def _hangs(address: str) -> bool:
    """Whether a connection is neither taken nor refused."""
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.5).close()
    except TimeoutError:
        return True
    except OSError:
        pass
    return False
