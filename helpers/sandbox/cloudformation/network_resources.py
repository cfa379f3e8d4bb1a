"""Stands in for CloudFormation's handlers of the load balancer and of security groups.

Differs: a load balancer is there at once; AWS takes minutes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from botocore.exceptions import ClientError

from helpers.sandbox.cloudformation.handler import (
    Context,
    Handler,
    HandlerError,
    Properties,
    call,
    changed,
    changed_attributes,
    exists,
    if_there,
    pairs,
)

# AWS seconds that a security group in use is tried for. Not published: interfaces take minutes to go (U).
DELETE_TIMEOUT = 900
# Real seconds more while a task still stops: its interface goes with its app, whose stopTimeout may be so long.
LONGEST_STOP = 120
ANYWHERE = {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}  # EC2's own egress rule of a new group


class LoadBalancer(Handler):
    type, service, name = "AWS::ElasticLoadBalancingV2::LoadBalancer", "elbv2", "Name"
    acted = "Name"
    recorded = "Subnets SubnetMappings SecurityGroups Scheme Type IpAddressType LoadBalancerAttributes"
    attributes = (
        "LoadBalancerArn LoadBalancerName LoadBalancerFullName DNSName CanonicalHostedZoneID SecurityGroups"
    )

    def create(self, ctx: Context, p: Properties) -> str:
        elb, name = ctx.aws("elbv2"), p.get("Name") or ctx.name(32)
        if "Name" in p:
            self.refuse_existing(exists(elb.describe_load_balancers, Names=[name]), name)
        answer = call(elb, "CreateLoadBalancer", p, Name=name, Tags=pairs(self.tags(ctx.tags, p)))
        arn = answer["LoadBalancers"][0]["LoadBalancerArn"]
        ctx.initiated(arn)
        if p.get("LoadBalancerAttributes"):
            elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=p["LoadBalancerAttributes"])
        return arn

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        elb = ctx.aws("elbv2")
        if changed(old, new, "Subnets", "SubnetMappings"):
            call(elb, "SetSubnets", new, LoadBalancerArn=physical)
        if changed(old, new, "SecurityGroups") and new.get("SecurityGroups"):
            call(elb, "SetSecurityGroups", new, LoadBalancerArn=physical)
        if changed(old, new, "IpAddressType"):
            elb.set_ip_address_type(LoadBalancerArn=physical, IpAddressType=new.get("IpAddressType", "ipv4"))
        if attributes := changed_attributes(old, new, "LoadBalancerAttributes"):
            elb.modify_load_balancer_attributes(LoadBalancerArn=physical, Attributes=attributes)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("elbv2").delete_load_balancer(LoadBalancerArn=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        (found,) = ctx.aws("elbv2").describe_load_balancers(LoadBalancerArns=[physical])["LoadBalancers"]
        return {
            **{
                name: found.get(name)
                for name in ("LoadBalancerArn", "LoadBalancerName", "DNSName", "SecurityGroups")
            },
            "LoadBalancerFullName": physical.split(":loadbalancer/", 1)[1],
            "CanonicalHostedZoneID": found.get("CanonicalHostedZoneId", ""),
        }


class TargetGroup(Handler):
    type, service, name = "AWS::ElasticLoadBalancingV2::TargetGroup", "elbv2", "Name"
    acted = (
        "Name Port Protocol HealthCheckEnabled HealthCheckIntervalSeconds HealthCheckPath HealthCheckPort "
        "HealthCheckProtocol HealthCheckTimeoutSeconds HealthyThresholdCount UnhealthyThresholdCount Matcher "
        "TargetGroupAttributes"
    )
    recorded = "VpcId TargetType ProtocolVersion IpAddressType"
    attributes = "TargetGroupArn TargetGroupFullName TargetGroupName LoadBalancerArns"
    reset: ClassVar[Properties] = {  # ELB's defaults, for what the template no longer has
        "HealthCheckIntervalSeconds": 30,
        "HealthCheckPath": "/",
        "HealthCheckPort": "traffic-port",
        "HealthCheckTimeoutSeconds": 5,
        "HealthyThresholdCount": 5,
        "UnhealthyThresholdCount": 2,
        "Matcher": {"HttpCode": "200"},
    }

    def create(self, ctx: Context, p: Properties) -> str:
        elb, name = ctx.aws("elbv2"), p.get("Name") or ctx.name(32)
        if "Name" in p:
            self.refuse_existing(exists(elb.describe_target_groups, Names=[name]), name)
        answer = call(elb, "CreateTargetGroup", p, Name=name, Tags=pairs(self.tags(ctx.tags, p)))
        arn = answer["TargetGroups"][0]["TargetGroupArn"]
        ctx.initiated(arn)
        if p.get("TargetGroupAttributes"):
            elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=p["TargetGroupAttributes"])
        return arn

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        elb = ctx.aws("elbv2")
        if changed(old, new, *(old.keys() | new.keys()) - {"Tags", "TargetGroupAttributes"}):
            gone = {key: value for key, value in self.reset.items() if key in old}
            call(elb, "ModifyTargetGroup", {**gone, **new}, TargetGroupArn=physical)
        if attributes := changed_attributes(old, new, "TargetGroupAttributes"):
            elb.modify_target_group_attributes(TargetGroupArn=physical, Attributes=attributes)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("elbv2").delete_target_group(TargetGroupArn=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        (found,) = ctx.aws("elbv2").describe_target_groups(TargetGroupArns=[physical])["TargetGroups"]
        return {**found, "TargetGroupFullName": physical.rsplit(":", 1)[1]}


class Listener(Handler):
    type, service = "AWS::ElasticLoadBalancingV2::Listener", "elbv2"
    acted = "LoadBalancerArn Port DefaultActions"
    recorded = "Protocol Certificates SslPolicy AlpnPolicy"
    attributes = "ListenerArn"

    def create(self, ctx: Context, p: Properties) -> str:
        elb = ctx.aws("elbv2")
        answer = call(elb, "CreateListener", p, Tags=pairs(self.tags(ctx.tags, p)))
        arn = answer["Listeners"][0]["ListenerArn"]
        ctx.initiated(arn)
        return arn

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        if changed(old, new, *(old.keys() | new.keys()) - {"Tags"}):
            call(ctx.aws("elbv2"), "ModifyListener", new, ListenerArn=physical)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("elbv2").delete_listener(ListenerArn=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"ListenerArn": physical}


class SecurityGroup(Handler):
    type, service, name = "AWS::EC2::SecurityGroup", "ec2", "GroupName"
    acted = "GroupName VpcId"
    recorded = "GroupDescription SecurityGroupIngress SecurityGroupEgress"
    attributes = "GroupId Id VpcId"

    def create(self, ctx: Context, p: Properties) -> str:
        ec2 = ctx.aws("ec2")
        tags = pairs(self.tags(ctx.tags, p))
        group = ec2.create_security_group(
            GroupName=p.get("GroupName") or ctx.name(255),
            Description=p["GroupDescription"],
            **({"VpcId": p["VpcId"]} if "VpcId" in p else {}),
            **({"TagSpecifications": [{"ResourceType": "security-group", "Tags": tags}]} if tags else {}),
        )["GroupId"]
        ctx.initiated(group)
        self._rules(ec2, group, {}, p)
        return group

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        self._rules(ctx.aws("ec2"), physical, old, new)
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        def gone() -> bool:
            nonlocal refused
            try:
                ctx.aws("ec2").delete_security_group(GroupId=physical)
            except ClientError as error:
                if error.response["Error"]["Code"] != "DependencyViolation":
                    raise
                refused = error
                return False
            return True

        refused: ClientError | None = None
        try:
            try:
                ctx.until(gone, f"Security group {physical}", DELETE_TIMEOUT)
            except HandlerError:
                if not _a_task_stops(ctx.aws("ecs")):
                    raise
                ctx.until(gone, f"Security group {physical}", LONGEST_STOP * ctx.clock.speed)
        except HandlerError:
            raise (refused or HandlerError(f"Security group {physical} did not go")) from None

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        (group,) = ctx.aws("ec2").describe_security_groups(GroupIds=[physical])["SecurityGroups"]
        return {"GroupId": physical, "Id": physical, "VpcId": group["VpcId"]}

    def _rules(self, ec2: Any, group: str, old: Properties, new: Properties) -> None:
        for kind in ("ingress", "egress"):
            default = [ANYWHERE] if kind == "egress" else []
            key = f"SecurityGroup{kind.capitalize()}"
            # An empty list of egress rules leaves EC2's own one in place, as an absent one does.
            before, now = (_permissions(p.get(key) or default) for p in (old, new))
            for rule in [rule for rule in before if rule not in now]:
                if_there(getattr(ec2, f"revoke_security_group_{kind}"), GroupId=group, IpPermissions=[rule])
            for rule in [rule for rule in now if rule not in before]:
                try:
                    getattr(ec2, f"authorize_security_group_{kind}")(GroupId=group, IpPermissions=[rule])
                except ClientError as error:
                    if not old or error.response["Error"]["Code"] != "InvalidPermission.Duplicate":
                        raise  # an update that failed half-way may have left the rule there


class SecurityGroupIngress(Handler):
    type, service = "AWS::EC2::SecurityGroupIngress", "ec2"
    kind: ClassVar[str] = "ingress"
    recorded = (
        "GroupId IpProtocol FromPort ToPort CidrIp CidrIpv6 SourcePrefixListId SourceSecurityGroupId "
        "SourceSecurityGroupOwnerId Description"
    )
    attributes = "Id"

    def create(self, ctx: Context, p: Properties) -> str:
        ec2 = ctx.aws("ec2")
        authorize = getattr(ec2, f"authorize_security_group_{self.kind}")
        answer = authorize(GroupId=p["GroupId"], IpPermissions=_permissions([p]))
        rule = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        ctx.initiated(rule)
        return rule

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        ec2 = ctx.aws("ec2")
        describe = getattr(ec2, f"update_security_group_rule_descriptions_{self.kind}")
        # An empty description is how one is taken away.
        permissions = _permissions([{"Description": "", **new}])
        describe(GroupId=new["GroupId"], IpPermissions=permissions)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        revoke = getattr(ctx.aws("ec2"), f"revoke_security_group_{self.kind}")
        revoke(GroupId=p["GroupId"], IpPermissions=_permissions([p]))

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Id": physical}


class SecurityGroupEgress(SecurityGroupIngress):
    type, kind = "AWS::EC2::SecurityGroupEgress", "egress"
    recorded = (
        "GroupId IpProtocol FromPort ToPort CidrIp CidrIpv6 DestinationPrefixListId DestinationSecurityGroupId "
        "Description"
    )


def _a_task_stops(ecs: Any) -> bool:
    for cluster in ecs.list_clusters()["clusterArns"]:
        arns = ecs.list_tasks(cluster=cluster, desiredStatus="STOPPED")["taskArns"]
        tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
        if any(task["lastStatus"] != "STOPPED" for task in tasks):
            return True
    return False


def _permissions(rules: list[Properties]) -> list[dict[str, Any]]:
    """CloudFormation's security group rules as EC2's IpPermissions, one each."""
    permissions = []
    for rule in rules:
        whom = {
            "IpRanges": {"CidrIp": rule.get("CidrIp")},
            "Ipv6Ranges": {"CidrIpv6": rule.get("CidrIpv6")},
            "PrefixListIds": {
                "PrefixListId": rule.get("SourcePrefixListId") or rule.get("DestinationPrefixListId")
            },
            "UserIdGroupPairs": {
                "GroupId": rule.get("SourceSecurityGroupId") or rule.get("DestinationSecurityGroupId")
            },
        }
        described = {"Description": rule["Description"]} if "Description" in rule else {}
        permission: dict[str, Any] = {"IpProtocol": str(rule["IpProtocol"])}
        permission |= {key: int(rule[key]) for key in ("FromPort", "ToPort") if key in rule}
        permission |= {key: [{**one, **described}] for key, one in whom.items() if next(iter(one.values()))}
        permissions.append(permission)
    return permissions
