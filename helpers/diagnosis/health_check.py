"""Rules of the health check: the path, the port, and the time that a task is given."""

from __future__ import annotations

import re
from typing import Any

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence, short, words
from helpers.diagnosis.finding import LIKELY, NOTED, POSSIBLE, PROVEN, SHOWN, Finding
from helpers.diagnosis.network import acls_open, security_group, timeouts_of

GROUP, SERVICE = "AWS::ElasticLoadBalancingV2::TargetGroup", "AWS::ECS::Service"
CODES = r"failed with these codes: \[([\d, ]+)\]|ResponseCodeMismatch"
HEALTH = (
    r"(?<!container )health checks?|is unhealthy in|FailedHealthChecks|Target\.(Timeout|ResponseCodeMismatch)"
)
CONTAINER = r"failed container health checks"
ANSWERED = r"Target\.(FailedHealthChecks|ResponseCodeMismatch)"
SHORT = 60  # seconds of grace, or less, that an app which is slow to start may need more than (a guess)


def health_check_path(e: Evidence) -> list[Finding]:
    group = _group(e)
    told = _mismatches(e)
    codes = re.findall(r"\d{3}", " ".join(re.findall(r"codes: \[([\d, ]+)\]", " ".join(told))))
    path = group.get("HealthCheckPath") or "its path"
    wanted = (group.get("Matcher") or {}).get("HttpCode") or "200"
    meant = _meant(e, "HealthCheckPath")
    drifted = bool(meant and group.get("HealthCheckPath") and meant != group["HealthCheckPath"])
    if not told and not (drifted and e.unwell):
        return []
    evidence = list(told)
    if group:
        evidence.append(f"elbv2 describe_target_groups: HealthCheckPath {path}, Matcher {wanted}")
    if drifted:
        evidence.append(f"cloudformation get_template, describe_stacks: HealthCheckPath {meant}")
    fix = _modify(group, HealthCheckPath=meant if drifted else "<a path that the app answers with 200>")
    code = codes[0] if codes else "something else"
    if drifted or code[0] in "43":
        cause = f"The health check asks for {path}, to which the app answers {code} and not {wanted}."
        return [
            Finding(cause, PROVEN if told and (drifted or code == "404") else SHOWN, tuple(evidence), fix)
        ]
    if re.fullmatch(r"2\d\d", code):
        fix = _modify(group, Matcher={"HttpCode": "200-299"})
        cause = f"The app answers {code} to the health check, and the target group accepts {wanted} only."
        return [Finding(cause, SHOWN, tuple(evidence), fix)]
    cause = (
        f"The app answers {code} to the health check at {path}: the app is not well, or the path is wrong."
    )
    decide = f"the app's own log, and curl -i http://<task>:{e.port}{path} from within the network"
    return [Finding(cause, LIKELY, tuple(evidence), fix, decide)]


def health_check_port(e: Evidence) -> list[Finding]:
    group, port = _group(e), e.port
    checked = group.get("HealthCheckPort") or "traffic-port"
    symptom = _symptom(e)
    if port and checked not in ("traffic-port", str(port)):
        evidence = [
            *symptom,
            f"elbv2 describe_target_groups: HealthCheckPort {checked}; the tasks are on port {port}",
        ]
        fix = _modify(group, HealthCheckPort="traffic-port")
        cause = f"The health check asks on port {checked}, while the app is on port {port}."
        if checked in _ports(e):  # on purpose: the task listens there as well
            decide = f"the app's log: does it listen on port {checked}, too?"
            return [Finding(cause, POSSIBLE if symptom else NOTED, tuple(evidence), fix, decide)]
        return [Finding(cause, PROVEN if symptom else SHOWN, tuple(evidence), fix)]
    variables = {v.get("name"): v.get("value") for v in e.container.get("environment") or []}
    own = variables.get("PORT")
    if port and own and own.isdigit() and own != str(port):
        evidence = [
            *symptom,
            f"ecs describe_task_definition, environment: PORT is {own}",
            f"ecs describe_services, loadBalancers: containerPort {port}",
        ]
        cause = f"The app is told to listen on port {own}, and the load balancer asks on port {port}."
        fix = fixes.diff(e, SERVICE, f"ContainerPort: {own}", removed="ContainerPort:")
        return [Finding(cause, PROVEN if symptom else SHOWN, tuple(evidence), fix)]
    refused = [line for line in symptom if re.search("FailedHealthChecks|Health checks failed\\W*$", line)]
    if refused:
        cause = (
            f"Nothing answers on port {port}: the app listens on another port, or to its own machine only."
        )
        decide = (
            "the app's log, which says where it listens; it has to be 0.0.0.0, and the port of portMappings"
        )
        return [Finding(cause, POSSIBLE, tuple(refused), "Have the app listen on 0.0.0.0 there.", decide)]
    return []


def grace_period(e: Evidence) -> list[Finding]:
    """Tasks that are killed before they are up. Only where nothing else explains it is this more than possible."""
    symptom = _symptom(e)
    grace = e.service.get("healthCheckGracePeriodSeconds") or 0
    meant = _meant_grace(e)
    killed = [t for t in e.failed_tasks if re.search("ELB health check", words(t), re.I)]
    drifted = meant is not None and grace < meant
    if not e.service or not e.service.get("loadBalancers") or not symptom or not (killed or drifted):
        return []
    group = _group(e)
    judged = int(group.get("HealthCheckIntervalSeconds") or 30) * int(
        group.get("UnhealthyThresholdCount") or 2
    )
    lives = [life for task in killed if (life := _life(task)) is not None]
    evidence = [*symptom[:2], f"ecs describe_services: healthCheckGracePeriodSeconds {grace}"]
    if drifted:
        evidence.append(f"cloudformation get_template: HealthCheckGracePeriodSeconds {meant}")
    if lives:
        evidence.append(
            f"ecs describe_tasks, task {short(killed[-1])}: stopped {lives[-1]:.0f} s after its start"
        )
    evidence += [
        f"logs get_log_events, {log.get('group')}, task {log.get('task')}: {line.strip()}"
        for log in e.logs[-1:]
        for line in (log.get("lines") or [])[-1:]
    ]
    others = [f for f in security_group(e) + health_check_port(e) + health_check_path(e) if f.weight >= SHOWN]
    young = not lives or min(lives) <= grace + 3 * judged
    weight = PROVEN if drifted else LIKELY if young and not others else NOTED
    if weight == LIKELY and grace > SHORT:
        weight = POSSIBLE
    if timeouts_of(e) and not _answered(e):
        weight = min(
            weight, POSSIBLE
        )  # an app that is not up yet refuses a connection: it would not time out
    wanted = max(meant or 0, 2 * grace, 120)
    fix = fixes.call(
        "ecs",
        "update_service",
        cluster=e.cluster,
        service=e.service_name,
        healthCheckGracePeriodSeconds=meant if drifted else wanted,
    )
    cause = (
        f"The grace period of {grace} s is over before the app is up: its tasks are judged, and stopped, while they "
        "start."
    )
    decide = "the app's log: how long from its first line until it listens"
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def container_health_check(e: Evidence) -> list[Finding]:
    """A task that its own container's health check gave up: the definition's, not the target group's."""
    said = e.said(CONTAINER, 2)
    if not said:
        return []
    asked = e.container.get("healthCheck") or {}
    command = " ".join(asked.get("command") or []) or "its command"
    evidence = [*said, f"ecs describe_task_definition, healthCheck: {asked or 'none'}"]
    evidence += e.logged(r"not found|no such file", 1)
    grace = asked.get("startPeriod") or 0
    cause = (
        f"The container's own health check fails: {command}. Often the program that it calls (curl, say) is not in the "
        f"image, or the app is not up within startPeriod, {grace} s."
    )
    fix = fixes.diff(
        e,
        "AWS::ECS::TaskDefinition",
        "HealthCheck: {Command: [CMD-SHELL, <a program of the image>], StartPeriod: 60}",
        removed="HealthCheck:",
        after="Image:",
    )
    fix += "\nor none at all: behind a load balancer the target group asks already"
    decide = f"docker run --rm --entrypoint sh <image> -c '{command}; echo $?', while the app runs in it"
    return [Finding(cause, LIKELY, tuple(evidence), fix, decide)]


def slow_answers(e: Evidence) -> list[Finding]:
    """An app that takes the connection and answers too late. Probable only where the whole way to it was read, and is
    open."""
    timeouts = timeouts_of(e)
    if not timeouts:
        return []
    group = _group(e)
    path, limit = group.get("HealthCheckPath") or "its path", int(group.get("HealthCheckTimeoutSeconds") or 5)
    ways = security_group(e)
    others = [f for f in ways + health_check_port(e) + health_check_path(e) if f.weight >= SHOWN]
    ended = [t for t in e.failed_tasks if t.get("stopCode") != "ServiceSchedulerInitiated"]
    unsure = [f for f in ways if f.weight >= POSSIBLE]
    weight = NOTED if others or unsure else POSSIBLE if ended or not acls_open(e) else LIKELY
    evidence = [
        *timeouts,
        f"elbv2 describe_target_groups: HealthCheckPath {path}, HealthCheckTimeoutSeconds {limit}",
    ]
    interval = int(group.get("HealthCheckIntervalSeconds") or 30)
    wanted = 2 * limit
    more = {} if wanted < interval else {"HealthCheckIntervalSeconds": wanted + limit}
    fix = _modify(group, HealthCheckTimeoutSeconds=wanted, **more)
    fix += "\nor let the app answer this path without waiting for anything else, or give its tasks more CPU"
    cause = f"The app accepts the health check at {path} and answers more slowly than HealthCheckTimeoutSeconds, {limit} s."
    decide = (
        f"the app's own log, and curl -o /dev/null -w '%{{time_total}}' http://<task>:{e.port}{path} from within the "
        "network"
    )
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def _answered(e: Evidence) -> bool:
    """Whether something answered a health check, if only by refusing the connection."""
    reasons = " ".join((h.get("TargetHealth") or {}).get("Reason") or "" for h in e.unwell)
    return bool(re.search(ANSWERED, reasons) or e.said(f"{ANSWERED}|{CODES}|reason Health checks failed\\)"))


def _symptom(e: Evidence) -> list[str]:
    return e.unwell_target() + e.said(HEALTH, 2)


def _mismatches(e: Evidence) -> list[str]:
    return e.unwell_target("ResponseCodeMismatch", described=True) + e.said(CODES, 2)


def _group(e: Evidence) -> dict:
    return e.target_group


def _ports(e: Evidence) -> set[str]:
    """Where the task's containers listen, as their definition has it."""
    containers = e.one("task_definition").get("containerDefinitions") or []
    return {str(p.get("containerPort")) for c in containers for p in c.get("portMappings") or []}


def _modify(group: dict, **settings: Any) -> str:
    arn = group.get("TargetGroupArn") or "<target group>"
    return fixes.call("elbv2", "modify_target_group", TargetGroupArn=arn, **settings)


def _meant(e: Evidence, name: str) -> str:
    """A property of the target group as the template and its parameters have it; "" when that is not plain text."""
    value = fixes.value_of(e, GROUP, name, _group(e).get("TargetGroupArn") or "")
    if value.startswith("!Ref "):
        key = value.removeprefix("!Ref ").strip()
        given = {
            p.get("ParameterKey"): p.get("ParameterValue") for p in e.one("stack").get("Parameters") or []
        }
        return given.get(key) or ""
    return "" if value.startswith(("!", "{")) else value


def _meant_grace(e: Evidence) -> int | None:
    value = fixes.value_of(e, SERVICE, "HealthCheckGracePeriodSeconds", e.service.get("serviceArn") or "")
    return int(value) if value.isdigit() else None


def _life(task: dict) -> float | None:
    """Seconds from a task's start to its stop."""
    started, stopped = task.get("startedAt"), task.get("stoppingAt") or task.get("stoppedAt")
    return (stopped - started).total_seconds() if started and stopped else None
