"""Rules of the network: from the load balancer to the task, and from the task to ECR and CloudWatch Logs."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import NOTED, POSSIBLE, PROVEN, SHOWN, Finding
from helpers.diagnosis.image import ECR
from helpers.diagnosis.reach import (
    ANSWERS,
    HTTPS,
    acl_of,
    admits,
    default_route,
    lets_out,
    passes,
    route_table,
)

TIMEOUT = r"Target\.Timeout|Request timed out|health checks? timed out|connection timed out"
NO_WAY = (
    r"i/o timeout|context deadline exceeded|check your task network configuration|send request failed|"
    r"request canceled while waiting for connection|Client\.Timeout exceeded|connection timed out|"
    r"There is a connection issue between the task and|no such host"
)
STARTING = r"ResourceInitializationError|CannotPull\w*Error|unable to place a task|unable to pull"
SECRET = r"secrets? from (asm|ssm)|registry auth from asm|fetch secret|EFS"  # said of a way to elsewhere


def security_group(e: Evidence) -> list[Finding]:
    """The path from the load balancer to the task's port."""
    port, tasks, balancers = e.port, _groups_of_tasks(e), _groups_of_balancers(e)
    timeouts = timeouts_of(e)
    if not port or not tasks or not balancers:
        unsure = [_unsure(e, timeouts, "the security groups were not read")] if timeouts else []
        return (_acls_drop(e, timeouts) if timeouts else []) or unsure
    sources = [group.get("GroupId", "") for group in balancers]
    ranges = [s["CidrBlock"] for s in e.many("balancer_subnets") if s.get("CidrBlock")]
    inward = admits(tasks, port, sources=sources, ranges=ranges)
    outward = any(
        lets_out(balancers, port, target) is not False
        for target in [group.get("GroupId", "") for group in tasks] + ranges
    )
    # Targets that are well show that the load balancer reaches them, whatever was read here.
    weight = PROVEN if timeouts else NOTED if _some_are_well(e) else SHOWN
    decide = fixes.call(
        "elbv2",
        "describe_target_health",
        TargetGroupArn=e.target_group.get("TargetGroupArn") or "<target group>",
    )
    if inward is False:
        own, other = tasks[0].get("GroupId", ""), sources[0]
        names = ", ".join(group.get("GroupId", "") for group in tasks)
        evidence = [
            *timeouts,
            f"ec2 describe_security_groups, {names} (the tasks'): {_told(tasks, 'IpPermissions')}",
            f"elbv2 describe_load_balancers: the load balancer is in {', '.join(sources)}, and asks on port {port}",
        ]
        if not e.network.get("securityGroups"):
            return [replace(_default_group(e, weight, evidence, own, other, port), decide=decide)]
        cause = f"The tasks' security group {own} lets nothing in from the load balancer's {other} on port {port}."
        fix = fixes.open_port("ingress", own, port, UserIdGroupPairs=[{"GroupId": other}]) + fixes.DRIFT
        return [Finding(cause, weight, tuple(evidence), fix, decide)]
    if not outward:
        own = sources[0]
        evidence = [
            *timeouts,
            f"ec2 describe_security_groups, {own} (the load balancer's): {_told(balancers, 'IpPermissionsEgress')}",
        ]
        cause = f"The load balancer's security group {own} lets nothing out to the tasks on port {port}."
        fix = fixes.open_port(
            "egress", own, port, UserIdGroupPairs=[{"GroupId": tasks[0].get("GroupId", "")}]
        )
        return [Finding(cause, weight, tuple(evidence), fix, decide)]
    if timeouts:
        if dropped := _acls_drop(e, timeouts):
            return dropped
        why = "a rule names a prefix list" if inward is None else "the security groups are open"
        return [_unsure(e, timeouts, why)]
    return []


def _default_group(e: Evidence, weight: int, evidence: list[str], own: str, other: str, port: int) -> Finding:
    """The service names no group, and so its tasks are in one that lets its own members in and nobody else."""
    evidence = [*evidence, "ecs describe_services, networkConfiguration: it names no security group"]
    balancer = fixes.logical_id(e, "AWS::EC2::SecurityGroup", other)
    fix = (
        "+++ template\n@@ Resources @@\n+  TaskSecurityGroup:\n+    Type: AWS::EC2::SecurityGroup\n"
        "+    Properties:\n+      GroupDescription: The tasks, open to the load balancer only\n"
        "+      VpcId: !Ref VpcId\n+      SecurityGroupIngress:\n"
        f"+        - {{IpProtocol: tcp, FromPort: {port}, ToPort: {port}, SourceSecurityGroupId: !Ref {balancer}}}\n"
        + fixes.diff(
            e, "AWS::ECS::Service", "SecurityGroups: [!Ref TaskSecurityGroup]", after="AwsvpcConfiguration:"
        )
    )
    cause = (
        f"The service names no security group, so that the VPC's default group {own} applies: it lets nothing in from "
        f"the load balancer's {other}."
    )
    return Finding(cause, weight, tuple(evidence), fix)


def _some_are_well(e: Evidence) -> bool:
    return any((h.get("TargetHealth") or {}).get("State") == "healthy" for h in e.many("target_health"))


def _acls(e: Evidence) -> list[tuple[bool | None, dict, str, tuple[int, int], str, bool]]:
    """What the network ACLs between the load balancer's subnets and the tasks' say of a request and its answer:
    (let through or not or None, ACL, its subnet, ports, the other subnet's addresses, outwards), the closed first."""
    port = e.port or 0
    found = []
    for one, other in product(e.many("balancer_subnets"), e.many("subnets")):
        if one.get("SubnetId") == other.get("SubnetId"):
            continue  # within a subnet no ACL is asked
        for near, far, ports, egress in (
            (one, other, (port, port), True),
            (other, one, (port, port), False),
            (other, one, ANSWERS, True),
            (one, other, ANSWERS, False),
        ):
            subnet, addresses = near.get("SubnetId", ""), far.get("CidrBlock", "")
            acl = acl_of(e.many("network_acls"), subnet)
            open_ = passes(acl, ports, addresses, egress=egress) if acl else None
            found.append((open_, acl or {}, subnet, ports, addresses, egress))
    return sorted(found, key=lambda each: each[0] is not False)


def acls_open(e: Evidence) -> bool:
    """Whether the network ACLs were read and let everything through between load balancer and tasks."""
    read = e.has("network_acls") and e.many("subnets") and e.many("balancer_subnets")
    return bool(read) and all(each[0] for each in _acls(e))


def _acls_drop(e: Evidence, timeouts: list[str]) -> list[Finding]:
    """A network ACL that lets a request to the tasks, or its answer, not through."""
    for open_, acl, subnet, (first, last), addresses, egress in _acls(e):
        if open_ is not False or not e.port:
            continue
        span, way = f"{first}-{last}" if first != last else f"{first}", "out to" if egress else "in from"
        name, numbers = (
            acl.get("NetworkAclId", ""),
            {entry.get("RuleNumber") for entry in acl.get("Entries") or []},
        )
        fix = fixes.call(
            "ec2",
            "create_network_acl_entry",
            NetworkAclId=name,
            RuleNumber=next(number for number in range(1, 32767) if number not in numbers),
            Protocol="6",
            RuleAction="allow",
            Egress=egress,
            CidrBlock=addresses,
            PortRange={"From": first, "To": last},
        )
        cause = f"The network ACL {name} of {subnet} does not let TCP {span} {way} {addresses}."
        evidence = (
            *timeouts,
            f"ec2 describe_network_acls, {name}: no entry allows TCP {span} {way} {addresses}",
        )
        return [Finding(cause, SHOWN, evidence, fix)]
    return []


def _unsure(e: Evidence, timeouts: list[str], why: str) -> Finding:
    read = (
        "are open, too" if acls_open(e) else "are not certain" if e.has("network_acls") else "were not read"
    )
    subnets = dict.fromkeys(
        [*(e.network.get("subnets") or []), *(s.get("SubnetId", "") for s in e.many("balancer_subnets"))]
    )
    decide = fixes.call(
        "ec2",
        "describe_network_acls",
        Filters=[{"Name": "association.subnet-id", "Values": list(filter(None, subnets)) or ["<subnet>"]}],
    )
    cause = f"Nothing comes back from the tasks ({why}; the network ACLs {read})."
    weight = POSSIBLE if "not read" in why or "prefix" in why else NOTED
    fix = (
        f"Compare the ACLs' rules with port {e.port or '<port>'} in and {ANSWERS[0]}-{ANSWERS[1]} out, of the tasks' "
        "subnets; the other way round of the load balancer's."
    )
    return Finding(cause, weight, tuple(timeouts), fix, decide)


def timeouts_of(e: Evidence) -> list[str]:
    return e.unwell_target("Timeout") + e.said(TIMEOUT, 2)


def _groups_of_tasks(e: Evidence) -> list[dict]:
    ids = e.network.get("securityGroups") or []
    found = [g for g in e.many("security_groups") if g.get("GroupId") in ids]
    if ids or not e.service:
        return found if len(found) == len(ids) else []
    return [
        g for g in e.many("security_groups") if g.get("GroupName") == "default"
    ]  # a VPC's default group applies


def _groups_of_balancers(e: Evidence) -> list[dict]:
    ids = [group for b in e.many("load_balancers") for group in b.get("SecurityGroups") or []]
    found = [g for g in e.many("security_groups") if g.get("GroupId") in ids]
    return found if len(found) == len(set(ids)) else []


def _told(groups: list[dict], side: str) -> str:
    rules = []
    for group in groups:
        for p in group.get(side) or []:
            ports = (
                "all"
                if p.get("IpProtocol") == "-1"
                else f"{p.get('IpProtocol')} {p.get('FromPort')}-{p.get('ToPort')}"
            )
            whom = [pair.get("GroupId", "") for pair in p.get("UserIdGroupPairs") or []]
            whom += [entry.get("CidrIp", "") for entry in p.get("IpRanges") or []]
            rules.append(
                f"{ports} {'from' if side == 'IpPermissions' else 'to'} {', '.join(whom) or 'nobody'}"
            )
    return "; ".join(rules) or "no rule"


def no_way_out(e: Evidence) -> list[Finding]:
    """From the task's subnet to ECR, S3 and CloudWatch Logs."""
    said = [
        line
        for line in e.said(NO_WAY)
        if re.search(STARTING, line, re.I) and not re.search(SECRET, line, re.I)
    ]
    if not said and not e.on_fargate:
        return []  # a machine of one's own pulls and logs by its own way
    closed = [(subnet, why) for subnet in e.network.get("subnets") or [] if (why := _closed(e, subnet))]
    groups = _groups_of_tasks(e)
    shut = bool(groups) and lets_out(groups, HTTPS) is False
    # Tasks of this revision that run have found a way, whatever was read here.
    works = not said and e.at_rest and _runs(e)
    if shut:
        own = groups[0].get("GroupId", "")
        evidence = (*said, f"ec2 describe_security_groups, {own}: {_told(groups, 'IpPermissionsEgress')}")
        fix = fixes.open_port("egress", own, HTTPS, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
        cause = f"The tasks' security group {own} lets nothing out on port {HTTPS}: no way to ECR or CloudWatch Logs."
        weight = PROVEN if said else POSSIBLE if works else SHOWN
        return [Finding(cause, weight, evidence, fix, _decide(e))]
    if not closed and not said:
        return []
    evidence, public = list(said), e.network.get("assignPublicIp", "DISABLED")
    for why in dict.fromkeys(why for _, why in closed):
        subnets = ", ".join(subnet for subnet, each in closed if each == why)
        evidence.append(f"ec2 describe_route_tables, describe_vpc_endpoints, {subnets}: {why}")
    evidence.append(f"ecs describe_services, networkConfiguration: assignPublicIp {public}")
    cause = "The tasks have no way out to ECR and CloudWatch Logs: "
    if closed and "internet gateway" in closed[0][1]:
        cause += "the way leads through an internet gateway, and they have no public address"
    else:
        cause += closed[0][1] if closed else "AWS says that nothing answered"
    weight = PROVEN if said and closed else POSSIBLE if works else SHOWN
    if said and not closed and e.network.get("subnets") and e.has("route_tables"):
        weight = POSSIBLE if e.at_rest else SHOWN
    return [Finding(f"{cause}.", weight, tuple(evidence), _way(e, closed), _decide(e))]


def _runs(e: Evidence) -> bool:
    revision = e.primary.get("taskDefinition") or e.service.get("taskDefinition")
    return any(
        task.get("taskDefinitionArn") == revision and task.get("lastStatus") == "RUNNING"
        for task in e.many("running")
    )


def _closed(e: Evidence, subnet: str) -> str:
    """Why a task in this subnet has no way out; "" when it has one, or when that is not certain."""
    route = default_route(e.many("route_tables"), subnet) if e.has("route_tables") else None
    if route is None or (route and not route.startswith("igw-")):
        return ""
    if route and e.network.get("assignPublicIp") == "ENABLED":
        return ""
    if not e.has("endpoints"):
        return ""
    names = [endpoint.get("ServiceName") or "" for endpoint in e.many("endpoints")]
    lacking = [name for name in _needed(e) if not any(each.endswith(f".{name}") for each in names)]
    if not lacking:
        return ""
    if route:
        return (
            "the default route leads to an internet gateway, which serves public addresses only; there is no "
            f"endpoint for {', '.join(lacking)}"
        )
    return f"there is no default route, and no endpoint for {', '.join(lacking)}"


def _needed(e: Evidence) -> list[str]:
    """The endpoints without which a task in a closed subnet does not start: for its image, and for its log."""
    logs = (e.container.get("logConfiguration") or {}).get("logDriver") == "awslogs"
    image = e.container.get("image") or ""
    return [*(["ecr.api", "ecr.dkr", "s3"] if ECR.match(image) else []), *(["logs"] if logs else [])]


def _way(e: Evidence, closed: list[tuple[str, str]]) -> str:
    network = dict(e.network) | {"assignPublicIp": "ENABLED"}
    public = fixes.call(
        "ecs",
        "update_service",
        cluster=e.cluster,
        service=e.service_name,
        networkConfiguration={"awsvpcConfiguration": network},
    )
    if closed and "no default route" in closed[0][1]:
        nowhere = [subnet for subnet, why in closed if "no default route" in why]
        tables = [route_table(e.many("route_tables"), subnet) or {} for subnet in nowhere]
        calls = [
            fixes.call(
                "ec2",
                "create_route",
                RouteTableId=table,
                DestinationCidrBlock="0.0.0.0/0",
                NatGatewayId="<NAT gateway>",
            )
            for table in dict.fromkeys(t.get("RouteTableId") or "<route table>" for t in tables)
        ]
        route = "\n".join(calls)
        return (
            f"{route}\nor GatewayId, an internet gateway: that makes the subnet public, and the tasks need assignPublicIp "
            "ENABLED\nor interface endpoints for ecr.api, ecr.dkr and logs, and a gateway endpoint for s3"
        )
    kind = "AWS::ECS::Service"
    if fixes.in_template(e, kind, "AssignPublicIp: *.?ENABLED"):
        return public
    if fixes.in_template(e, kind, "AssignPublicIp"):
        return f"{public}\n" + fixes.diff(e, kind, "AssignPublicIp: ENABLED", removed="AssignPublicIp:")
    return f"{public}\n" + fixes.diff(e, kind, "AssignPublicIp: ENABLED", after="AwsvpcConfiguration:")


def _decide(e: Evidence) -> str:
    subnets = e.network.get("subnets") or ["<subnet>"]
    return fixes.call(
        "ec2",
        "describe_route_tables",
        Filters=[{"Name": "association.subnet-id", "Values": subnets[:1]}],
    )
