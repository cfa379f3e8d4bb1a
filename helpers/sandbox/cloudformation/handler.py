"""Stands in for what CloudFormation's resource handlers have in common: their contract with the engine, and its errors.

Differs: handlers run in the engine's process and speak to the services through boto3, one after the other.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.cloudformation.schemas import schema

POLL = 0.25  # real seconds between two looks at something that takes its time
Properties = dict[str, Any]


class HandlerError(Exception):
    """A resource operation failed for a reason of CloudFormation's own; `code` is its HandlerErrorCode."""

    def __init__(self, message: str, code: str = "GeneralServiceException"):
        super().__init__(message)
        self.code = code


class TimedOut(HandlerError):
    """A resource was not ready within its type's time limit, where CloudFormation says so without the handler's words."""


class Cancelled(Exception):
    """The stack operation was cancelled while this resource was waited for."""


@dataclass
class Context:
    """What a handler works with for one operation on one resource. `tags`: the stack's, before and now."""

    aws: Callable[[str], Any]  # boto3 client by service name, in the stack's region
    clock: Clock
    wait: Callable[[float], None]  # real seconds
    stack_name: str
    logical_id: str
    tags: dict[str, str] = field(default_factory=dict)
    old_tags: dict[str, str] = field(default_factory=dict)
    initiated: Callable[[str], None] = lambda physical_id: None  # tell that the resource exists from here on
    cancelled: Callable[[], bool] = lambda: False

    def name(self, longest: int) -> str:
        """A physical name as CloudFormation makes them: stack, logical id, twelve random signs."""
        tail = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(12))
        room = longest - len(tail) - 2
        logical = self.logical_id[: max(room - len(self.stack_name), room // 2)]
        return f"{self.stack_name[: room - len(logical)]}-{logical}-{tail}"

    def until(self, ready: Callable[[], bool], what: str, timeout: float) -> None:
        """Poll until `ready()`; HandlerError after `timeout` AWS seconds."""
        deadline = self.clock.time() + timeout
        while not ready():
            if self.cancelled():
                raise Cancelled
            if self.clock.time() >= deadline:
                raise HandlerError(f"{what} did not stabilize.", "NotStabilized")
            self.wait(POLL)


class Handler:
    """One resource type. Its physical id is also its Ref."""

    type: ClassVar[str]
    service: ClassVar[str]
    name: ClassVar[str | None] = None  # the property that gives it a name of one's own
    acted: ClassVar[str] = ""
    recorded: ClassVar[str] = ""
    fixed: ClassVar[str] = ""  # of these, what AWS would change in place and the sandbox cannot
    attributes: ClassVar[str] = ""  # what Fn::GetAtt may ask

    def create(self, ctx: Context, p: Properties) -> str:
        raise NotImplementedError

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        raise NotImplementedError

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        raise NotImplementedError

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        """The values of `attributes`."""
        return {}

    def unsupported(self, p: Properties) -> list[str]:
        return sorted(p.keys() - set(self.acted.split()) - set(self.recorded.split()) - {"Tags"})

    def tags(self, stack: dict[str, str], p: Properties) -> dict[str, str]:
        own = p.get("Tags", [])
        own = own if isinstance(own, dict) else {tag["Key"]: tag["Value"] for tag in own}
        merged = {**stack, **own}
        return {k: v for k, v in merged.items() if schema(self.type).system_tags or not k.startswith("aws:")}

    def retag(self, ctx: Context, resource: str, old: Properties, new: Properties) -> None:
        before, now = self.tags(ctx.old_tags, old), self.tags(ctx.tags, new)
        changed = {key: value for key, value in now.items() if before.get(key) != value}
        gone = sorted(before.keys() - now.keys())
        tag, untag = TAGGING[self.service]
        client = ctx.aws(self.service)
        if changed:
            tag(client, resource, changed)
        if gone:
            untag(client, resource, gone)

    def refuse_existing(self, found: bool, name: str) -> None:
        if found:
            raise HandlerError(
                f"Resource of type '{self.type}' with identifier '{name}' already exists.", "AlreadyExists"
            )


# --- from CloudFormation's shapes to the service's ----------------------------------------------------------------


def call(client: Any, operation: str, properties: Properties, **extra: Any) -> dict[str, Any]:
    """Call an operation with those of a resource's properties that it takes, named and typed as it wants them."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    members = {name.lower(): name for name in shape.members}
    taken = {
        members[key.lower()]: (key, value) for key, value in properties.items() if key.lower() in members
    }
    arguments = {name: shaped(value, shape.members[name], key) for name, (key, value) in taken.items()}
    return getattr(client, xform_name(operation))(**{**arguments, **extra})


def shaped(value: Any, shape: Any, path: str) -> Any:
    """A template's value as a botocore shape: `AwsvpcConfiguration` → `awsvpcConfiguration`. A map's keys stay."""
    if shape.type_name == "structure" and isinstance(value, dict):
        members = {name.lower(): name for name in shape.members}
        if extra := sorted(key for key in value if key.lower() not in members):
            raise HandlerError(f"the sandbox does not support {path}.{extra[0]}", "InvalidRequest")
        return {
            members[key.lower()]: shaped(inner, shape.members[members[key.lower()]], f"{path}.{key}")
            for key, inner in value.items()
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [shaped(inner, shape.member, path) for inner in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: shaped(inner, shape.value, f"{path}.{key}") for key, inner in value.items()}
    if shape.type_name == "string":
        if isinstance(value, (dict, list)):
            return json.dumps(value)
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str) and shape.type_name in ("integer", "long", "float", "double", "boolean"):
        kinds: dict[str, Callable[[str], Any]] = {"boolean": lambda text: text.lower() == "true"}
        return kinds.get(shape.type_name, int if shape.type_name in ("integer", "long") else float)(value)
    return value


def pairs(tags: Mapping[str, str], key: str = "Key", value: str = "Value") -> list[dict[str, str]]:
    return [{key: name, value: text} for name, text in tags.items()]


Tag = Callable[[Any, str, dict[str, str]], Any]
Untag = Callable[[Any, str, list[str]], Any]
TAGGING: dict[str, tuple[Tag, Untag]] = {
    "iam": (
        lambda c, r, tags: c.tag_role(RoleName=r, Tags=pairs(tags)),
        lambda c, r, keys: c.untag_role(RoleName=r, TagKeys=keys),
    ),
    "logs": (
        lambda c, r, tags: c.tag_resource(resourceArn=r, tags=tags),
        lambda c, r, keys: c.untag_resource(resourceArn=r, tagKeys=keys),
    ),
    "ecs": (
        lambda c, r, tags: c.tag_resource(resourceArn=r, tags=pairs(tags, "key", "value")),
        lambda c, r, keys: c.untag_resource(resourceArn=r, tagKeys=keys),
    ),
    "elbv2": (
        lambda c, r, tags: c.add_tags(ResourceArns=[r], Tags=pairs(tags)),
        lambda c, r, keys: c.remove_tags(ResourceArns=[r], TagKeys=keys),
    ),
    "ec2": (
        lambda c, r, tags: c.create_tags(Resources=[r], Tags=pairs(tags)),
        lambda c, r, keys: c.delete_tags(Resources=[r], Tags=[{"Key": key} for key in keys]),
    ),
    "application-autoscaling": (
        lambda c, r, tags: c.tag_resource(ResourceARN=r, Tags=tags),
        lambda c, r, keys: c.untag_resource(ResourceARN=r, TagKeys=keys),
    ),
    "cloudwatch": (
        lambda c, r, tags: c.tag_resource(ResourceARN=r, Tags=pairs(tags)),
        lambda c, r, keys: c.untag_resource(ResourceARN=r, TagKeys=keys),
    ),
    "ecr": (
        lambda c, r, tags: c.tag_resource(resourceArn=r, tags=pairs(tags)),
        lambda c, r, keys: c.untag_resource(resourceArn=r, tagKeys=keys),
    ),
    "ssm": (
        lambda c, r, tags: c.add_tags_to_resource(ResourceType="Parameter", ResourceId=r, Tags=pairs(tags)),
        lambda c, r, keys: c.remove_tags_from_resource(ResourceType="Parameter", ResourceId=r, TagKeys=keys),
    ),
}

# --- failures -----------------------------------------------------------------------------------------------------

HANDLER_CODES = {  # part of a service's error code → CloudFormation's HandlerErrorCode
    "NotFound": "NotFound",
    "NoSuchEntity": "NotFound",
    "NotActive": "NotFound",
    "AlreadyExists": "AlreadyExists",
    "Duplicate": "AlreadyExists",
    "AccessDenied": "AccessDenied",
    "Throttling": "Throttling",
    "LimitExceeded": "ServiceLimitExceeded",
    "NotEmpty": "GeneralServiceException",
}


# How the handlers of ECS tell what the service refused, by its operation. Transcribed from public reports
# (aws-amplify/amplify-cli issue 12972, aws/aws-cdk issue 27360; C). UpdateService's is by analogy (U).
LEADS = {
    "CreateService": "CreateService error",
    "UpdateService": "UpdateService error",
    "RegisterTaskDefinition": "Create TaskDefinition",
}
# Of AWS::ECS::Service once its time is up (aws-solutions-library-samples/
# guidance-for-modernizing-electric-vehicle-charging-on-aws issue 44, aws/aws-app-mesh-examples issue 419; C).
# Until about 2020 it read "Service <ARN> did not stabilize." (hackoregon/civic-devops issue 175).
TIMED_OUT = "Resource timed out waiting for completion (RequestToken: {token})"


def handler_code(error: ClientError) -> str:
    code = error.response["Error"].get("Code", "")
    return next((ours for part, ours in HANDLER_CODES.items() if part in code), "InvalidRequest")


def reason(error: Exception, client: Any, token: str) -> str:
    """Why a resource operation failed, as CloudFormation's events say it."""
    if isinstance(error, TimedOut):
        return TIMED_OUT.format(token=token)
    if isinstance(error, ClientError):
        message, code = _refusal(error, client, token), handler_code(error)
    elif isinstance(error, HandlerError):
        message, code = str(error), error.code
    elif isinstance(error, BotoCoreError):
        message, code = str(error), "InvalidRequest"
    else:
        message, code = f"{type(error).__name__}: {error}", "InternalFailure"
    return f'Resource handler returned message: "{message}" (RequestToken: {token}, HandlerErrorCode: {code})'


def _refusal(error: ClientError, client: Any, token: str) -> str:
    """What a service refused, as its handler passes it on: the older ones of ECS in another style than the others."""
    answer, metadata = error.response["Error"], error.response.get("ResponseMetadata", {})
    said, status = answer.get("Message", ""), metadata.get("HTTPStatusCode", 400)
    request = metadata.get("RequestId", token)
    service = "".join(
        word[:1].upper() + word[1:].lower() for word in client.meta.service_model.service_id.split()
    )
    lead = LEADS.get(error.operation_name) if service == "Ecs" else None
    if lead and handler_code(error) == "InvalidRequest":
        which = f"Error Code: {answer.get('Code', '')}; Request ID: {request}; Proxy: null"
        return (
            f"Invalid request provided: {lead}: {said} (Service: AmazonECS; Status Code: {status}; {which})"
        )
    return f"{said} (Service: {service}, Status Code: {status}, Request ID: {request})"


# --- small things that several handlers do ------------------------------------------------------------------------


def if_there(delete: Callable[..., Any], **which: Any) -> None:
    try:
        delete(**which)
    except ClientError as error:
        if handler_code(error) != "NotFound":
            raise


def exists(describe: Callable[..., Any], **which: Any) -> bool:
    try:
        describe(**which)
    except ClientError as error:
        if handler_code(error) != "NotFound":
            raise
        return False
    return True


def renamed(p: Properties, **names: str) -> Properties:
    return {names.get(key, key): value for key, value in p.items()}


def changed(old: Properties, new: Properties, *names: str) -> bool:
    return any(old.get(name) != new.get(name) for name in names)


def changed_attributes(old: Properties, new: Properties, key: str) -> list[dict[str, str]]:
    before = {one["Key"]: one["Value"] for one in old.get(key, [])}
    return [one for one in new.get(key, []) if before.get(one["Key"]) != one["Value"]]
