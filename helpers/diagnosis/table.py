"""The table of rules: a row is an id, the layer, the symptom as people meet it, and the function that looks.

A rule is a function of `Evidence` that gives its findings, none where it sees nothing. `examine` asks all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from helpers.diagnosis import (
    app,
    capacity,
    health_check,
    image,
    logs,
    network,
    role,
    scaling,
    stack,
    template,
)
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import Finding


@dataclass(frozen=True)
class Rule:
    id: str
    layer: str
    symptom: str
    look: Callable[[Evidence], list[Finding]]
    though_well: bool = False  # whether it can be trouble while every task runs and answers


RULES = {
    rule.id: rule
    for rule in (
        # In the order in which a task comes to life: of causes that are equally sure, the earlier one comes first.
        Rule(
            "target-group-unattached", "template", "CreateService is refused", stack.target_group_unattached
        ),
        Rule(
            "resource-id", "template", "the scalable target is refused", stack.resource_id, though_well=True
        ),
        Rule("trust-policy", "role", "no task is launched", role.trust_policy),
        Rule("capacity", "account", "unable to place a task: no room, or no quota", capacity.capacity),
        Rule(
            "service-linked-role", "account", "CreateService is refused, once", capacity.service_linked_role
        ),
        Rule(
            "execution-role", "role", "ResourceInitializationError, or 403 at the pull", role.execution_role
        ),
        Rule("secrets", "role", "ResourceInitializationError: secret from asm, or ssm", role.secrets),
        Rule("no-way-out", "network", "ResourceInitializationError: timeout", network.no_way_out),
        Rule(
            "image-reference", "image", "CannotPullContainerError: invalid reference", image.image_reference
        ),
        Rule("image-missing", "image", "CannotPullContainerError: not found", image.image_missing),
        Rule("pull-limit", "image", "CannotPullContainerError: toomanyrequests", image.pull_limit),
        Rule("architecture", "image", "exec format error", image.architecture),
        Rule("log-group-missing", "log", "failed to validate logger args: not found", logs.log_group_missing),
        Rule("log-permissions", "role", "failed to validate logger args: denied", role.log_permissions),
        Rule("command-not-found", "app", "exit code 127", app.command_not_found),
        Rule("out-of-memory", "app", "exit code 137", app.out_of_memory),
        Rule("app-exits", "app", "Essential container in task exited", app.app_exits),
        Rule("security-group", "network", "Target.Timeout, and tasks replaced", network.security_group),
        Rule(
            "health-check-path", "health check", "Target.ResponseCodeMismatch", health_check.health_check_path
        ),
        Rule(
            "health-check-port", "health check", "Target.FailedHealthChecks", health_check.health_check_port
        ),
        Rule(
            "slow-answers", "health check", "Target.Timeout, and the way is open", health_check.slow_answers
        ),
        Rule(
            "container-health-check",
            "health check",
            "Task failed container health checks",
            health_check.container_health_check,
        ),
        Rule("grace-period", "health check", "tasks replaced while they start", health_check.grace_period),
        Rule("sigterm-lost", "app", "502 at each deployment", app.sigterm_lost, though_well=True),
        Rule("keep-alive", "app", "502 now and then", app.keep_alive, though_well=True),
        Rule("two-policies", "scaling", "it does not scale in", scaling.two_policies, though_well=True),
        Rule("scale-in-held", "scaling", "it does not scale in", scaling.scale_in_held, though_well=True),
        Rule("metric-gaps", "scaling", "it does not scale at all", scaling.metric_gaps, though_well=True),
        Rule(
            "desired-count",
            "template",
            "an update resets the number of tasks",
            template.desired_count,
            though_well=True,
        ),
        Rule("repository-not-empty", "stack", "DELETE_FAILED", stack.repository_not_empty, though_well=True),
        Rule(
            "deployment-configuration",
            "template",
            "a deployment that neither starts nor stops a task",
            stack.deployment_configuration,
        ),
        # What comes of a cause, and makes it worse.
        Rule("no-circuit-breaker", "stack", "the stack hangs for hours", stack.no_circuit_breaker),
        Rule(
            "breaker-rolled-back",
            "stack",
            "the old version runs",
            stack.breaker_rolled_back,
            though_well=True,
        ),
        Rule("stack-stuck", "stack", "the stack takes no update", stack.stack_stuck, though_well=True),
    )
}


def examine(evidence: Evidence) -> list[Finding]:
    """All findings, the surest first; of equal ones in the order of the table."""
    found = [replace(f, rule=rule.id) for rule in RULES.values() for f in rule.look(evidence)]
    return sorted(found, key=lambda finding: -finding.weight)
