"""Rules of the account and of AWS's own machines: no room for a task, no quota, a role that the account lacks."""

from __future__ import annotations

import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import PROVEN, Finding

# (A) https://repost.aws/knowledge-center/ecs-fargate-runtask-capacity
UNAVAILABLE = r"Capacity is unavailable"
# (B) https://www.flightcontrol.dev/docs/troubleshooting/concurrent-cpu-limit and, with "tasks", before vCPUs were
# counted, https://github.com/aws/copilot-cli/issues/3064
QUOTA = r"reached the limit on the number of (vCPUs|tasks) you can run concurrently"
# (U) RESOURCE:*, as of the ECS API failure reasons; as a service event of Fargate it was not looked up.
RESOURCE = r"RESOURCE:\w+"
# (A) https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using-service-linked-roles.html tells of the role; the
# words (C) from https://github.com/awslabs/fargatecli/issues/35
LINKED = r"unable to assume the service[- ]linked role"
ON_DEMAND = "L-3032A538"  # Fargate On-Demand vCPU resource count (U: from memory)


def capacity(e: Evidence) -> list[Finding]:
    said = e.said(f"{UNAVAILABLE}|{QUOTA}|{RESOURCE}")
    if not said:
        return []
    words = " ".join(said)
    quota = {"ServiceCode": "fargate", "QuotaCode": ON_DEMAND}
    if re.search(QUOTA, words, re.I):
        cause = (
            "The account's quota of Fargate is used up: a new account has a small one, and it counts all tasks of the "
            "region."
        )
        fix = (
            fixes.call("service-quotas", "get_service_quota", **quota)
            + "  # vCPUs now; ask for more than that:\n"
            + fixes.call("service-quotas", "request_service_quota_increase", **quota, DesiredValue=32.0)
        )
    elif re.search(UNAVAILABLE, words, re.I):
        cause = (
            "AWS has no room for such a task in these availability zones at the moment; ECS goes on trying."
        )
        fix = "Wait, give the service subnets in more availability zones, or let its tasks have another size."
    else:
        cause = "What the task asks of a machine is not free on any: RESOURCE: and its name say what."
        fix = "Let the tasks ask for less, or give the cluster more machines; on Fargate wait, ECS goes on trying."
    return [Finding(cause, PROVEN, tuple(said), fix)]


def service_linked_role(e: Evidence) -> list[Finding]:
    """ECS acts in an account by a role of its own, which a new account gets at its first use, sometimes too late."""
    said = e.said(LINKED)
    if not said:
        return []
    fix = fixes.call("iam", "create_service_linked_role", AWSServiceName="ecs.amazonaws.com")
    fix += "\nor deploy again: often the first attempt has made it"
    cause = "The account has no service-linked role for ECS yet, or has it since a moment ago only."
    decide = fixes.call("iam", "get_role", RoleName="AWSServiceRoleForECS")
    return [Finding(cause, PROVEN, tuple(said), fix, decide)]
