"""The rule of the log group: awslogs expects that it is there."""

from __future__ import annotations

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import POSSIBLE, PROVEN, SHOWN, Finding


def log_group_missing(e: Evidence) -> list[Finding]:
    configuration = e.container.get("logConfiguration") or {}
    options = configuration.get("options") or {}
    group = options.get("awslogs-group") or ""
    said = e.said(r"log group does not exist|ResourceNotFoundException.*log|log group .*not found")
    absent = (
        configuration.get("logDriver") == "awslogs"
        and bool(group)
        and options.get("awslogs-create-group") != "true"
        and e.has("log_groups")
        and group not in {each.get("logGroupName") for each in e.many("log_groups")}
    )
    if not said and not absent:
        return []
    evidence = list(said)
    if absent:
        evidence.append(f"logs describe_log_groups: there is no {group}")
    if group:
        evidence.append(f"ecs describe_task_definition, logConfiguration: awslogs-group {group}")
    fix = fixes.call("logs", "create_log_group", logGroupName=group or "<log group>")
    if e.has("template") and "AWS::Logs::LogGroup" not in e.text("template"):
        fix += (
            "\n+++ template\n@@ Resources @@\n+  LogGroup:\n+    Type: AWS::Logs::LogGroup\n"
            f"+    Properties: {{LogGroupName: {group}, RetentionInDays: 7}}"
        )
    weight = PROVEN if said and absent else SHOWN
    if group and e.has("log_groups") and not absent:
        weight = POSSIBLE  # it has been made since
        evidence.append(f"logs describe_log_groups: {group} is there now")
    decide = fixes.call("logs", "describe_log_groups", logGroupNamePrefix=group or "/")
    cause = f"The log group {group} that the task's log goes to does not exist.".replace("  ", " ")
    return [Finding(cause, weight, tuple(evidence), fix, decide)]
