"""Stands in for EC2's refusal to delete a security group that a network interface or another group's rule still uses.

Differs: EC2 knows nothing of the network interfaces of tasks and load balancers here, so what uses a group is read from
the tasks' records and from the load balancers themselves. Instances and VPC endpoints are not looked at.
"""

from __future__ import annotations

from typing import Any

from helpers.sandbox.endpoint import Aws, AwsError, Call, Handler
from helpers.sandbox.records import Records

# EC2's own words (hashicorp/terraform-provider-aws issue 1671 and many more; C).
IN_USE = "resource {group} has a dependent object"


class SecurityGroupUse:
    def __init__(self, records: Records, aws: Aws):
        self.records, self.aws = records, aws

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {("ec2", "DeleteSecurityGroup"): self.delete_security_group}

    def delete_security_group(self, call: Call) -> dict[str, Any]:
        group = call.params.get("GroupId")
        if group and (self._of_tasks(group) or self._of_others(call.region, group)):
            raise AwsError("DependencyViolation", IN_USE.format(group=group))
        return call.forward()

    def _of_tasks(self, group: str) -> bool:
        """Whether a task that still has its network interface uses it: until it is STOPPED."""
        with self.records.lock:
            return any(
                group in task.security_groups
                for task in self.records.tasks.values()
                if task.last_status != "STOPPED"
            )

    def _of_others(self, region: str, group: str) -> bool:
        balancers = self.aws("elbv2", region).describe_load_balancers()["LoadBalancers"]
        groups = self.aws("ec2", region).describe_security_groups()["SecurityGroups"]
        return any(group in one.get("SecurityGroups", []) for one in balancers) or any(
            names_in_a_rule(one, group) for one in groups if one["GroupId"] != group
        )


def names_in_a_rule(security_group: dict[str, Any], group: str) -> bool:
    """Whether a rule of this group, in boto3's shape, lets in or out what belongs to `group`."""
    rules = security_group.get("IpPermissions", []) + security_group.get("IpPermissionsEgress", [])
    return any(pair.get("GroupId") == group for rule in rules for pair in rule.get("UserIdGroupPairs", []))
