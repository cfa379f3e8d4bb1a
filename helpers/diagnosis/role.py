"""Rules of the roles: who ECS may become to start a task, and what it may do then."""

from __future__ import annotations

import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence, last
from helpers.diagnosis.finding import LIKELY, POSSIBLE, PROVEN, SHOWN, Finding
from helpers.diagnosis.image import ECR, HOST
from helpers.diagnosis.permissions import allows, services_trusted, trusts

ROLE = "AWS::IAM::Role"
PRINCIPAL = "ecs-tasks.amazonaws.com"
ASSUME = r"unable to assume the role"
PULL_ACTIONS = ("ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
LOG_ACTIONS = ("logs:CreateLogStream", "logs:PutLogEvents")
MANAGED = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
TRUST = (
    '\'\'\'{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",\n'
    f'        "Principal": {{"Service": "{PRINCIPAL}"}}, "Action": "sts:AssumeRole"}}]}}\'\'\''
)


def execution_role(e: Evidence) -> list[Finding]:
    """The role is not there, or may not pull."""
    name = _name(e)
    missing = e.one("execution_role").get("missing", "")
    assume = e.said(ASSUME)
    if missing:
        evidence = (*assume, f"iam get_role, {name}: {missing}")
        cause = f"The execution role {name} does not exist."
        return [Finding(cause, PROVEN if assume else SHOWN, evidence, _create(name))]
    said = e.said(r"not authorized to perform: ecr:|AccessDenied\w*.*ecr[:.]|ecr:GetAuthorizationToken")
    denied = [action for action in PULL_ACTIONS if _allowed(e, action) is False]
    forbidden = [line for line in e.said(r"\b403\b|Forbidden") if "Pull" in line or "pull" in line]
    if e.has("task_definition") and not e.one("task_definition").get("executionRoleArn") and _in_ecr(e):
        evidence = (*said, *forbidden, "ecs describe_task_definition: it names no execution role")
        cause = "The task definition names no execution role: ECS pulls from ECR, and writes logs, with one."
        fix = fixes.diff(e, "AWS::ECS::TaskDefinition", "ExecutionRoleArn: !GetAtt TaskExecutionRole.Arn")
        return [Finding(cause, SHOWN, evidence, fix)]
    if not said and not denied and not forbidden:
        return []
    evidence = [*said, *forbidden]
    evidence += [f"iam policies of {name}: nothing allows {action} on {_on(e, action)}" for action in denied]
    weight = PROVEN if denied and (said or forbidden) else SHOWN if said or denied else LIKELY
    if not denied and all(_allowed(e, action) for action in PULL_ACTIONS):
        weight = POSSIBLE  # the role may pull by now; or the repository's own policy forbids it
        evidence.append(f"iam policies of {name}: they allow {', '.join(PULL_ACTIONS)}")
    actions = denied or list(PULL_ACTIONS)
    cause = f"The execution role {name} may not pull the image. Not allowed: {', '.join(actions)}."
    decide = _simulate(e, actions, _on(e, actions[-1]))
    return [Finding(cause, weight, tuple(evidence), _grant(e, "pull", actions), decide)]


def log_permissions(e: Evidence) -> list[Finding]:
    said = e.said(r"not authorized to perform: logs:|AccessDenied\w*.*logs[:.]|create stream.*AccessDenied")
    actions = LOG_ACTIONS if _group(e) else ()
    denied = [action for action in actions if _allowed(e, action) is False]
    if e.one("execution_role").get("missing") or (not said and not denied):
        return []
    name = _name(e)
    evidence = list(said)
    evidence += [f"iam policies of {name}: nothing allows {action} on {_on(e, action)}" for action in denied]
    wanted = denied or list(LOG_ACTIONS)
    if "CreateLogGroup" in " ".join(said):
        wanted = [*wanted, "logs:CreateLogGroup"]
    weight = PROVEN if said and denied else SHOWN
    if actions and not denied and all(_allowed(e, action) for action in actions):
        weight = POSSIBLE  # by now it may
        evidence.append(f"iam policies of {name}: they allow {', '.join(actions)}")
    cause = f"The execution role {name} may not write the task's log. Not allowed: {', '.join(wanted)}."
    decide = _simulate(e, wanted, _on(e, wanted[0]))
    return [Finding(cause, weight, tuple(evidence), _grant(e, "write-logs", wanted), decide)]


def trust_policy(e: Evidence) -> list[Finding]:
    said = e.said(ASSUME)
    role = e.one("execution_role")
    document = role.get("AssumeRolePolicyDocument")
    trusted = trusts(document, PRINCIPAL)
    if role.get("missing") or (not said and trusted is not False):
        return []
    name = _name(e)
    named = re.search(r"assume the role '?([\w:/.+=,@-]+)'?", " ".join(said))
    if named and last(named[1]) != name and e.has("task_definition"):
        name, trusted = last(named[1]), None  # the task role, which ECS assumes as well
    evidence = list(said)
    weight = SHOWN
    if trusted is False:
        whom = ", ".join(services_trusted(document)) or "nobody"
        evidence.append(f"iam get_role, {name}: it trusts {whom}, and not {PRINCIPAL}")
        weight = PROVEN if said else SHOWN
    elif trusted:
        evidence.append(f"iam get_role, {name}: it trusts {PRINCIPAL} now")
        weight = POSSIBLE
    fix = (
        f'boto3.client("iam").update_assume_role_policy(\n    RoleName="{name}",\n'
        f"    PolicyDocument={TRUST},\n)"
    )
    decide = fixes.call("iam", "get_role", RoleName=name) + "  # its AssumeRolePolicyDocument"
    cause = f"ECS may not take on the role {name}: its trust policy does not name {PRINCIPAL}."
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def _arn(e: Evidence) -> str:
    return e.one("task_definition").get("executionRoleArn") or "<execution role>"


def _name(e: Evidence) -> str:
    return last(_arn(e))


def _in_ecr(e: Evidence) -> bool:
    return bool(ECR.match(e.container.get("image") or ""))


def _log_options(e: Evidence) -> dict:
    """Of the awslogs driver; empty with any other."""
    configuration = e.container.get("logConfiguration") or {}
    return (configuration.get("options") or {}) if configuration.get("logDriver") == "awslogs" else {}


def _group(e: Evidence) -> str:
    return _log_options(e).get("awslogs-group", "")


def _allowed(e: Evidence, action: str) -> bool | None:
    """None where it is not certain: policies that were not read, or with conditions; an image that is not in ECR."""
    if not e.has("execution_policies") or (action.startswith("ecr:") and not _in_ecr(e)):
        return None
    documents = [policy.get("document") or {} for policy in e.many("execution_policies")]
    return allows(documents, action, _on(e, action))


def _on(e: Evidence, action: str) -> str:
    """The resource that the action is asked for, in the region that the image's URI or the log configuration names."""
    if action == "ecr:GetAuthorizationToken":
        return "*"
    region = e.one("names").get("region") or "us-east-1"
    account = (_arn(e).split(":") + [""] * 5)[4] or "123456789012"
    if action.startswith("logs:"):
        region = _log_options(e).get("awslogs-region") or region
        return f"arn:aws:logs:{region}:{account}:log-group:{_group(e)}:log-stream:ecs/app/1"
    image = e.container.get("image") or ""
    parts, host = ECR.match(image), HOST.match(image)
    if not parts or not host:
        return "*"
    return f"arn:aws:ecr:{host['region']}:{host['account']}:repository/{parts['repository']}"


def _simulate(e: Evidence, actions: list[str], resource: str) -> str:
    """The call that says what the execution role may do there."""
    return fixes.call(
        "iam",
        "simulate_principal_policy",
        PolicySourceArn=_arn(e),
        ActionNames=actions,
        ResourceArns=[resource],
    )


def _grant(e: Evidence, name: str, actions: list[str]) -> str:
    """A policy of its own beside the others, as narrow as IAM allows: only the token wants any resource."""
    on: dict[str, list[str]] = {}
    for action in actions:
        on.setdefault(_on(e, action).replace("log-stream:ecs/app/1", "*"), []).append(f'"{action}"')
    statements = ",\n".join(
        f'        {{"Effect": "Allow", "Action": [{", ".join(each)}],\n         "Resource": "{resource}"}}'
        for resource, each in on.items()
    )
    return (
        f'boto3.client("iam").put_role_policy(\n    RoleName="{_name(e)}", PolicyName="{name}",\n'
        f"    PolicyDocument='''{{\"Version\": \"2012-10-17\", \"Statement\": [\n{statements}]}}''',\n)\n"
        + fixes.redeploy(e)
    )


def _create(name: str) -> str:
    return (
        f'boto3.client("iam").create_role(\n    RoleName="{name}",\n    AssumeRolePolicyDocument={TRUST},\n)\n'
        + fixes.call("iam", "attach_role_policy", RoleName=name, PolicyArn=MANAGED)
    )
