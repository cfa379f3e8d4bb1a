"""Rules of the stack: what CloudFormation or CreateService refused, and what happens to a deployment that fails."""

from __future__ import annotations

import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence, last
from helpers.diagnosis.finding import LIKELY, NOTED, POSSIBLE, PROVEN, SHOWN, Finding

SERVICE, LISTENER = "AWS::ECS::Service", "AWS::ElasticLoadBalancingV2::Listener"
UNATTACHED = "does not have an associated load balancer"
# (A) https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html
BLOCKED = r"unable to stop or start tasks during a deployment"
BREAKER = r"circuit breaker|rolling back to|deployment failed"


def target_group_unattached(e: Evidence) -> list[Finding]:
    said = e.said(UNATTACHED)
    listener = fixes.logical_id(e, LISTENER) if LISTENER in e.text("template") else ""
    if said:
        cause = "The service was created before any listener forwarded to its target group."
        if not listener and e.has("template"):
            cause = "No listener forwards to the service's target group: the template has none."
        return [Finding(cause, PROVEN, tuple(said), _listener(e, listener))]
    groups = [g for g in e.many("target_groups") if g.get("LoadBalancerArns") == []]
    if not groups or not e.service:
        return []
    name = groups[0].get("TargetGroupName", "")
    evidence = [f"elbv2 describe_target_groups, {name}: LoadBalancerArns is empty"]
    evidence += [
        f"elbv2 describe_target_health: {(h.get('TargetHealth') or {}).get('Reason')}" for h in e.unwell[:1]
    ]
    cause = f"No listener forwards to the target group {name}, so that its targets are not used."
    return [Finding(cause, SHOWN, tuple(evidence), _listener(e, listener))]


def _listener(e: Evidence, listener: str) -> str:
    there = fixes.in_template(e, SERVICE, r"^\s+DependsOn:")
    if listener and not there:
        return fixes.diff(e, SERVICE, f"DependsOn: {listener}", after="Type:")
    if e.has("template") and not listener:
        return (
            "+++ template\n@@ Resources @@\n+  Listener:\n"
            f"+    Type: {LISTENER}\n+    Properties:\n+      LoadBalancerArn: !Ref LoadBalancer\n+      Protocol: HTTP\n"
            "+      Port: 80\n+      DefaultActions:\n+        - {Type: forward, TargetGroupArn: !Ref TargetGroup}\n"
            "and on the service: DependsOn: Listener"
        )
    arn = next((g.get("TargetGroupArn") for g in e.many("target_groups")), "<target group>")
    balancer = next((b.get("LoadBalancerArn") for b in e.many("load_balancers")), "<load balancer>")
    forward = [{"Type": "forward", "TargetGroupArn": arn}]
    return fixes.call(
        "elbv2", "create_listener", LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=forward
    )


def breaker_rolled_back(e: Evidence) -> list[Finding]:
    """What happened after the cause; it comes first only where nothing of the cause is left to see."""
    said = e.said(BREAKER) if e.rolled_back or e.stack_failed else []
    reasons = [
        f"ecs describe_services, deployment {d.get('id')}: rolloutState {d.get('rolloutState')}, {d['rolloutStateReason']}"
        for d in e.deployments
        if re.search(BREAKER, d.get("rolloutStateReason") or "", re.I)
        and "completed" not in d["rolloutStateReason"]
    ]
    if not said and not (reasons and e.rolled_back):
        return []
    revision = last(e.primary.get("taskDefinition")) or "the former revision"
    back = f" and went back to the last good one, {revision}: what you deployed does not run."
    after = back if _went_back(e) else "; nothing took its place."
    cause = f"The circuit breaker gave the last deployment up{after}"
    return [
        Finding(
            cause,
            LIKELY,
            tuple([*reasons, *said][:3]),
            "Mend what made its tasks fail, and deploy again.",
            fixes.call(
                "ecs",
                "list_tasks",
                cluster=e.cluster,
                desiredStatus="STOPPED",
            )
            + "  # its tasks' reasons, for an hour",
        )
    ]


def _went_back(e: Evidence) -> bool:
    """Whether a rollback is told: by ECS, or by the stack. One of a stack's creation only takes away what was made."""
    told = [e.primary.get("rolloutStateReason") or "", *e.said("rolling back")]
    status = e.one("stack").get("StackStatus") or ""
    return any("rolling back" in words for words in told) or status.startswith("UPDATE_ROLLBACK")


def deployment_configuration(e: Evidence) -> list[Finding]:
    """No task may stop because too few would be left, and none may start because too many would be there."""
    said = e.said(BLOCKED, 1)
    if not said:
        return []
    configuration = e.service.get("deploymentConfiguration") or {}
    least, most = configuration.get("minimumHealthyPercent"), configuration.get("maximumPercent")
    desired = e.service.get("desiredCount")
    evidence = [
        *said,
        f"ecs describe_services: minimumHealthyPercent {least}, maximumPercent {most}, desiredCount {desired}",
    ]
    cause = (
        f"The deployment may neither stop one of the {desired} tasks nor start one more: minimumHealthyPercent {least} is "
        f"rounded up, maximumPercent {most} down, and nothing is left between them."
    )
    fix = fixes.call(
        "ecs",
        "update_service",
        cluster=e.cluster,
        service=e.service_name,
        deploymentConfiguration={"minimumHealthyPercent": 100, "maximumPercent": 200},
    )
    return [Finding(cause, PROVEN, tuple(evidence), fix)]


def no_circuit_breaker(e: Evidence) -> list[Finding]:
    configuration = e.service.get("deploymentConfiguration") or {}
    breaker = configuration.get("deploymentCircuitBreaker") or {}
    if not e.service or breaker.get("enable") or e.at_rest:
        return []
    status = e.one("stack").get("StackStatus") or ""
    waiting = status.endswith("IN_PROGRESS")
    failing = e.failed_tasks or e.unwell
    if not failing:
        return []
    evidence = ["ecs describe_services, deploymentConfiguration: deploymentCircuitBreaker is not enabled"]
    if waiting:
        evidence.append(f"cloudformation describe_stacks, {e.stack_name}: {status}")
    evidence.append(
        f"ecs describe_tasks: {len(e.failed_tasks)} tasks failed; deployment {e.primary.get('rolloutState', '')}"
    )
    cause = "Nothing ends a deployment that cannot succeed: the circuit breaker is off" + (
        ", and the stack waits for up to three hours." if waiting else "."
    )
    fix = _breaker(e)
    if waiting and status.startswith("UPDATE"):
        stop = fixes.call("cloudformation", "cancel_update_stack", StackName=e.stack_name)
        fix = f"{stop}  # now\n{fix}"
    decide = fixes.call("ecs", "describe_services", cluster=e.cluster, services=[e.service_name])
    return [Finding(cause, LIKELY if waiting else POSSIBLE, tuple(evidence), fix, decide)]


def _breaker(e: Evidence) -> str:
    on = "DeploymentCircuitBreaker: {Enable: true, Rollback: true}"
    if fixes.in_template(e, SERVICE, r"^\s+Enable:"):
        return fixes.diff(e, SERVICE, "Enable: true", removed="Enable:")
    if fixes.in_template(e, SERVICE, r"DeploymentCircuitBreaker:"):
        return fixes.diff(e, SERVICE, on, removed="DeploymentCircuitBreaker:")
    if fixes.in_template(e, SERVICE, r"DeploymentConfiguration:"):
        return fixes.diff(e, SERVICE, on, after="DeploymentConfiguration:")
    return fixes.diff(e, SERVICE, f"DeploymentConfiguration:\n  {on}")


def repository_not_empty(e: Evidence) -> list[Finding]:
    said = e.said(r"still contains images|RepositoryNotEmptyException")
    if not said:
        return []
    named = re.search(r"repository with name '([^']+)'", " ".join(said))
    name = named.group(1) if named else "<repository>"
    fix = (
        f"{fixes.call('ecr', 'delete_repository', repositoryName=name, force=True)}  # its images go, too\n"
        f"{fixes.call('cloudformation', 'delete_stack', StackName=e.stack_name)}\n"
        + fixes.diff(e, "AWS::ECR::Repository", "EmptyOnDelete: true")
    )
    return [
        Finding(
            f"The repository {name} cannot be deleted: images are in it, and the template does not say EmptyOnDelete.",
            PROVEN,
            tuple(said),
            fix,
        )
    ]


def resource_id(e: Evidence) -> list[Finding]:
    """The scalable target's ResourceId made from the service's ARN: what `!Ref` gives."""
    kind = "AWS::ApplicationAutoScaling::ScalableTarget"
    targets = [f for f in e.stack_failures() if f.get("ResourceType") == kind]
    words = (
        r"Unsupported service namespace|resource ?Id|ECS service doesn't exist|service/arn:|Invalid.*service"
    )
    said = [
        f"cloudformation describe_stack_events, {f.get('LogicalResourceId')}: {f.get('ResourceStatusReason')}"
        for f in targets
        if re.search(words, f.get("ResourceStatusReason") or "", re.I)
    ]
    line = fixes.in_template(e, kind, r"ResourceId:")
    cluster, service = fixes.logical_id(e, "AWS::ECS::Cluster"), fixes.logical_id(e, SERVICE)
    by_ref = rf"\$\{{{service}\}}|!Ref {service}\b"
    shape = r"service/\S+/\S+|ImportValue|FindInMap"
    wrong = bool(line) and bool(re.search(by_ref, line) or not re.search(shape, line))
    arn = "arn:" in " ".join(said)
    if not said and not (wrong and targets):
        return []
    evidence = list(said) or [f"cloudformation describe_stack_events: {kind} failed"]
    if line:
        evidence.append(f"cloudformation get_template: {line}")
    good = f"ResourceId: !Sub service/${{{cluster}}}/${{{service}.Name}}"
    cause = "The scalable target's ResourceId is not service/<cluster>/<service>: !Ref of a service gives its ARN."
    weight = PROVEN if wrong or arn else SHOWN
    return [Finding(cause, weight, tuple(evidence), fixes.diff(e, kind, good, removed="ResourceId:"))]


def stack_stuck(e: Evidence) -> list[Finding]:
    """Not an error of the service's: a stack that can only be deleted, or continued."""
    status = e.one("stack").get("StackStatus") or ""
    fix = {
        "ROLLBACK_COMPLETE": fixes.call("cloudformation", "delete_stack", StackName=e.stack_name)
        + "  # then create it again",
        "UPDATE_ROLLBACK_FAILED": fixes.call(
            "cloudformation", "continue_update_rollback", StackName=e.stack_name
        ),
    }.get(status)
    if not fix:
        return []
    evidence = (f"cloudformation describe_stacks, {e.stack_name}: {status}",)
    decide = fixes.call("cloudformation", "describe_stack_events", StackName=e.stack_name)
    return [Finding(f"The stack is {status}: it takes no update any more.", NOTED, evidence, fix, decide)]
