"""Rules of the roles: who ECS may become to start a task, and what it may do then."""

from __future__ import annotations

import json
import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence, last
from helpers.diagnosis.finding import LIKELY, POSSIBLE, PROVEN, SHOWN, Finding
from helpers.diagnosis.image import ECR, HOST
from helpers.diagnosis.permissions import allows, anywhere, services_trusted, trusts

ROLE = "AWS::IAM::Role"
PRINCIPAL = "ecs-tasks.amazonaws.com"
ASSUME = r"unable to assume the role"  # not: the service linked role, which is the account's
PULL_ACTIONS = ("ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
LOG_ACTIONS = ("logs:CreateLogStream", "logs:PutLogEvents")
MANAGED = "iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
SECRETS = r"unable to (retrieve|get) (secrets?|registry auth) from (asm|ssm)|failed to fetch secret|invalid ssm parameters"
DENIED = r"AccessDenied|not authorized|Access to KMS is not allowed"
UNREACHED = r"RequestCanceled|deadline exceeded|i/o timeout|send request failed|connection issue"


def execution_role(e: Evidence) -> list[Finding]:
    """The role is not there, or may not pull."""
    name = _name(e)
    missing = e.one("execution_role").get("missing", "")
    assume = e.said(ASSUME)
    if missing:
        evidence = (*assume, f"iam get_role, {name}: {missing}")
        cause = f"The execution role {name} does not exist."
        return [Finding(cause, PROVEN if assume else SHOWN, evidence, _create(e, name))]
    said = e.said(r"not authorized to perform: ecr:|AccessDenied\w*.*ecr[:.]|ecr:GetAuthorizationToken")
    denied = [action for action in PULL_ACTIONS if _allowed(e, action) is False]
    forbidden = [line for line in e.said(r"\b403\b|Forbidden") if "Pull" in line or "pull" in line]
    if _lacks_a_role(e):
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
    actions = LOG_ACTIONS if _group(e) and e.on_fargate else ()  # elsewhere the machine's role writes the log
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
        f"    PolicyDocument={_trust(e)},\n)"
    )
    decide = fixes.call("iam", "get_role", RoleName=name) + "  # its AssumeRolePolicyDocument"
    cause = f"ECS may not take on the role {name}: its trust policy does not name {PRINCIPAL}."
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def secrets(e: Evidence) -> list[Finding]:
    """A value that the definition names under `secrets` could not be fetched: ECS fetches it with the execution role."""
    said = e.said(SECRETS)
    if not said:
        return []
    words, named = " ".join(said), [s.get("valueFrom") or "" for s in e.container.get("secrets") or []]
    evidence = [*said, *(f"ecs describe_task_definition, secrets: valueFrom {value}" for value in named[:2])]
    action = "ssm:GetParameters" if re.search(r"\bssm\b", words) else "secretsmanager:GetSecretValue"
    secret, name = _secret(words, named), _name(e)
    if re.search(DENIED, words):
        # Secrets Manager lets it read, and the key does not: that is another permission, on another resource.
        action, on = ("kms:Decrypt", "<the key's ARN>") if "KMS" in words else (action, secret)
        cause = f"The execution role {name} may not read a secret of the task definition: {action} is not allowed."
        fix = _statement(e, "read-secrets", {on: [action]})
        return [Finding(cause, PROVEN, tuple(evidence), fix, _simulate(e, [action], on))]
    if re.search(UNREACHED, words):
        service = "ssm" if action.startswith("ssm") else "secretsmanager"
        cause = f"The tasks do not reach the service {service}, from which a secret of theirs comes."
        fix = (
            f"an interface endpoint for {service} in the tasks' subnets whose security group lets them in on 443, or a way "
            "to the internet: a public address, or a NAT gateway"
        )
        decide = fixes.call("ec2", "describe_vpc_endpoints")
        return [Finding(cause, SHOWN, tuple(evidence), fix, decide)]
    cause = "A secret that the task definition names is not there, or has not the key that is asked of it."
    decide = fixes.call("secretsmanager", "describe_secret", SecretId=secret)
    return [Finding(cause, SHOWN, tuple(evidence), "Correct valueFrom in the task definition.", decide)]


def _secret(words: str, named: list[str]) -> str:
    """The ARN of the secret or parameter that AWS's words name, else of the first that the definition names by one. What
    the definition writes behind a secret's ARN, a key of its JSON and a version, is no part of it."""
    found = re.findall(r"arn:[\w-]+:(?:secretsmanager|ssm):[^\s,]+", " ".join([words, *named]))
    return ":".join(found[0].split(":")[:7]) if found else "<the secret's ARN>"


def _trust(e: Evidence) -> str:
    """A trust policy for ECS's tasks of this account alone, as the course's templates have it."""
    return (
        '\'\'\'{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",\n'
        f'        "Principal": {{"Service": "{PRINCIPAL}"}}, "Action": "sts:AssumeRole",\n'
        f'        "Condition": {{"StringEquals": {{"aws:SourceAccount": "{e.where[1] or "<account>"}"}}}}}}]}}\'\'\''
    )


def _lacks_a_role(e: Evidence) -> bool:
    """On Fargate an image of ECR needs an execution role; on machines of one's own theirs does."""
    definition = e.one("task_definition")
    return bool(definition) and e.on_fargate and not definition.get("executionRoleArn") and _in_ecr(e)


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
    """None where it is not certain: policies that were not read, or with conditions; an image that is not in ECR; a
    repository whose own policy may allow it."""
    if not e.has("execution_policies") or (action.startswith("ecr:") and not _in_ecr(e)):
        return None
    documents = [policy.get("document") or {} for policy in e.many("execution_policies")]
    allowed = allows(documents, action, _on(e, action))
    return None if allowed is False and _by_the_repository(e, action) else allowed


def _by_the_repository(e: Evidence, action: str) -> bool:
    """Whether the repository's policy may allow what the role's do not: it does not tell a token, which is of no one."""
    if not action.startswith("ecr:") or action == "ecr:GetAuthorizationToken":
        return False
    answer = e.one("repository_policy")
    if not answer:
        return True
    document = json.loads(answer.get("policyText") or "{}")
    return "missing" not in answer and allows([anywhere(document)], action, "*") is not False


def _on(e: Evidence, action: str) -> str:
    """The resource that the action is asked for, in the region that the image's URI or the log configuration names."""
    if action == "ecr:GetAuthorizationToken":
        return "*"
    region = e.one("names").get("region") or "us-east-1"
    partition, account = e.where
    if action.startswith("logs:"):
        region = _log_options(e).get("awslogs-region") or region
        return f"arn:{partition}:logs:{region}:{account}:log-group:{_group(e)}:log-stream:ecs/app/1"
    image = e.container.get("image") or ""
    parts, host = ECR.match(image), HOST.match(image)
    if not parts or not host:
        return "*"
    return f"arn:{partition}:ecr:{host['region']}:{host['account']}:repository/{parts['repository']}"


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
        on.setdefault(_on(e, action).replace("log-stream:ecs/app/1", "*"), []).append(action)
    return _statement(e, name, on)


def _statement(e: Evidence, name: str, on: dict[str, list[str]]) -> str:
    """`on`: by resource, the actions that are allowed on it."""
    quoted = {resource: ", ".join(f'"{action}"' for action in actions) for resource, actions in on.items()}
    statements = ",\n".join(
        f'        {{"Effect": "Allow", "Action": [{actions}],\n         "Resource": "{resource}"}}'
        for resource, actions in quoted.items()
    )
    return (
        f'boto3.client("iam").put_role_policy(\n    RoleName="{_name(e)}", PolicyName="{name}",\n'
        f"    PolicyDocument='''{{\"Version\": \"2012-10-17\", \"Statement\": [\n{statements}]}}''',\n)\n"
        + fixes.redeploy(e)
        + fixes.DRIFT
    )


def _create(e: Evidence, name: str) -> str:
    managed = f"arn:{e.where[0]}:{MANAGED}"
    return (
        f'boto3.client("iam").create_role(\n    RoleName="{name}",\n    AssumeRolePolicyDocument={_trust(e)},\n)\n'
        + fixes.call("iam", "attach_role_policy", RoleName=name, PolicyArn=managed)
    )
