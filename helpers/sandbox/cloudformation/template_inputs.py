"""Stands in for CloudFormation's front door: a template, its parameters and capabilities, checked before a stack begins.

Differs: of the AWS-specific parameter types only VPC, subnet and security group ids are there, and those of SSM.
Where AWS names what a template refers to in vain, the line is told as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.cloudformation.change_sets import Wanted
from helpers.sandbox.cloudformation.handler import Handler
from helpers.sandbox.cloudformation.records import Stack
from helpers.sandbox.cloudformation.schemas import known_types
from helpers.sandbox.cloudformation.template_language import (
    LIST_TYPES,
    NO_VALUE,
    SSM_TYPE,
    Scope,
    TemplateError,
    active,
    check,
    evaluate_conditions,
    lines_of,
    parameter_values,
    parse,
    references,
    split_list,
)
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError
from helpers.sandbox.partitions import partition_of, url_suffix

LONGEST_TEMPLATE = 51_200  # bytes of a TemplateBody (AWS CloudFormation quotas)
IAM_NAMES = {  # resource types that ask for a capability → the property that makes it CAPABILITY_NAMED_IAM
    **{"AWS::IAM::Role": "RoleName", "AWS::IAM::User": "UserName", "AWS::IAM::Group": "GroupName"},
    **{"AWS::IAM::ManagedPolicy": "ManagedPolicyName", "AWS::IAM::InstanceProfile": "InstanceProfileName"},
    **{"AWS::IAM::Policy": "", "AWS::IAM::AccessKey": "", "AWS::IAM::UserToGroupAddition": ""},
}
AWS_PARAMETERS: dict[str, Callable[[Any, list[str]], Any]] = {  # parameter types whose values must exist
    "AWS::EC2::VPC::Id": lambda ec2, values: ec2.describe_vpcs(VpcIds=values),
    "AWS::EC2::Subnet::Id": lambda ec2, values: ec2.describe_subnets(SubnetIds=values),
    "AWS::EC2::SecurityGroup::Id": lambda ec2, values: ec2.describe_security_groups(GroupIds=values),
}
REFUSED = {  # parameters of the API that would change what happens and that the sandbox does not have
    *("TemplateURL", "StackPolicyBody", "StackPolicyURL", "StackPolicyDuringUpdateBody"),
    *("RollbackConfiguration", "ResourcesToImport", "IncludeNestedStacks", "ImportExistingResources"),
    *("RetainExceptOnCreate", "DeploymentMode", "OnStackFailure", "ResourceTypes", "DeletionMode"),
}


class TemplateInputs:
    """Reads what CreateStack, UpdateStack, CreateChangeSet and ValidateTemplate are given."""

    def __init__(self, aws: Aws, handlers: dict[str, Handler]):
        self.aws, self.handlers = aws, handlers

    def read(self, params: dict[str, Any], stack: Stack | None) -> tuple[str, dict[str, Any]]:
        given = {key for key, value in params.items() if value not in (None, "", [], {}, False)}
        if refused := sorted(REFUSED & given):
            raise TemplateError(f"the sandbox does not support {', '.join(refused)}")
        text = params.get("TemplateBody")
        if text is None and params.get("UsePreviousTemplate") and stack and stack.wanted:
            text = stack.wanted.text
        if not text:
            raise TemplateError("Either Template URL or Template Body must be specified.")
        if len(text.encode()) > LONGEST_TEMPLATE:
            raise TemplateError(
                "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
                f"Member must have length less than or equal to {LONGEST_TEMPLATE}"
            )
        body = parse(text)
        try:
            check(body, self._attributes)
            self._check_types(body)
        except TemplateError as error:
            raise TemplateError(f"{error}{_where(text, error.names)}") from None
        return text, body

    def _attributes(self, resource_type: str) -> set[str] | None:
        handler = self.handlers.get(resource_type)
        return set(handler.attributes.split()) if handler else None

    def _check_types(self, body: dict[str, Any]) -> None:
        unknown = sorted({str(one["Type"]) for one in body["Resources"].values()} - self.handlers.keys())
        if not unknown:
            return
        told = f"Template format error: Unrecognized resource types: [{', '.join(unknown)}]"
        if real := [one for one in unknown if one in known_types()]:
            told += (
                f". AWS has {', '.join(real)}, but the sandbox does not support it; "
                f"it supports {', '.join(sorted(self.handlers))}"
            )
        raise TemplateError(told, *unknown)

    def wanted(self, params: dict[str, Any], stack: Stack) -> Wanted:
        before = stack.wanted
        text, body = self.read(params, stack)
        capabilities, _ = capabilities_of(body)
        allowed = set(params.get("Capabilities") or [])
        if "CAPABILITY_NAMED_IAM" in allowed:
            allowed.add("CAPABILITY_IAM")
        if missing := [one for one in capabilities if one not in allowed]:
            raise AwsError(
                "InsufficientCapabilitiesException", f"Requires capabilities : [{', '.join(missing)}]"
            )
        declared, given = body.get("Parameters", {}), {}
        for one in params.get("Parameters") or []:
            key = one["ParameterKey"]
            if not one.get("UsePreviousValue"):
                given[key] = one.get("ParameterValue", "")
            elif before is not None and key in before.parameters:
                given[key] = before.parameters[key]
        values = parameter_values(declared, given)
        tags = {tag["Key"]: tag["Value"] for tag in params.get("Tags") or []}
        if params.get("Tags") is None and before is not None:
            tags = before.tags
        typed = {
            name: self._typed(name, declared[name], value, stack.region) for name, value in values.items()
        }
        pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": NO_VALUE,
            "AWS::NotificationARNs": params.get("NotificationARNs") or [],
            "AWS::Partition": partition_of(stack.region),
            "AWS::Region": stack.region,
            "AWS::StackId": stack.id,
            "AWS::StackName": stack.name,
            "AWS::URLSuffix": url_suffix(stack.region),
        }
        scope = Scope({**pseudo, **typed}, body.get("Mappings", {}), zones=self._zones)
        conditions = evaluate_conditions(body, scope)
        resources = active(body["Resources"], conditions)
        outputs = active(body.get("Outputs", {}), conditions)
        for block, section in (("Resources", resources), ("Outputs", outputs)):
            inactive = body["Resources"].keys() - resources.keys()
            if missing := sorted({name for name, _ in references(section)} & inactive):
                told = f"Unresolved resource dependencies [{', '.join(missing)}] in the {block} block of the template"
                raise TemplateError(f"Template format error: {told}")
        scope = replace(scope, conditions=conditions)
        given_capabilities = sorted(params.get("Capabilities") or [])
        return Wanted(text, body, values, scope, resources, outputs, tags, given_capabilities)

    def _typed(self, name: str, spec: dict[str, Any], value: str, region: str) -> Any:
        """A parameter's value as Ref gives it: a list for the list types, what is stored for the SSM types."""
        kind = spec.get("Type", "String")
        if ssm := SSM_TYPE.fullmatch(kind):
            kind = ssm.group(1)
            try:
                value = self.aws("ssm", region).get_parameter(Name=value)["Parameter"]["Value"]
            except ClientError:
                raise TemplateError(
                    f"Unable to fetch parameters [{value}] from parameter store for this account."
                ) from None
        is_list = LIST_TYPES.fullmatch(kind)
        inner = is_list.group(1) if is_list else kind
        values = split_list(value) if is_list else [value]
        if look := AWS_PARAMETERS.get(inner or ""):
            if missing := _missing(lambda some: look(self.aws("ec2", region), some), values):
                told = f"parameter value {missing} for parameter name {name} does not exist"
                raise TemplateError(f"Parameter validation failed: {told}")
        elif inner not in (None, "String", "Number"):
            raise TemplateError(f"Template format error: Unrecognized parameter type: {kind}")
        return values if is_list else value

    def _zones(self, region: str) -> list[str]:
        zones = self.aws("ec2", region).describe_subnets(
            Filters=[{"Name": "default-for-az", "Values": ["true"]}]
        )
        return sorted({subnet["AvailabilityZone"] for subnet in zones["Subnets"]})


def _missing(look: Callable[[list[str]], Any], values: list[str]) -> str | None:
    """The first of `values` that is not there: all are asked for at once, and each only when that is refused."""
    if _are_there(look, values):
        return None
    return next((one for one in values if not _are_there(look, [one])), None)


def _are_there(look: Callable[[list[str]], Any], values: list[str]) -> bool:
    try:
        look(values)
    except ClientError:
        return False
    return True


def _where(text: str, names: tuple[str, ...]) -> str:
    lines = lines_of(text, names)
    if len(names) == 1 and lines:
        return f" (line {lines[names[0]]})"
    return f" ({', '.join(f'{name}: line {line}' for name, line in lines.items())})" if lines else ""


def capabilities_of(body: dict[str, Any]) -> tuple[list[str], str]:
    asking = {one["Type"]: one for one in body["Resources"].values() if one["Type"] in IAM_NAMES}
    named = any(
        IAM_NAMES.get(one["Type"]) in one.get("Properties", {})
        for one in body["Resources"].values()
        if one["Type"] in IAM_NAMES
    )
    why = f"The following resource(s) require capabilities: [{', '.join(sorted(asking))}]"
    return (["CAPABILITY_NAMED_IAM" if named else "CAPABILITY_IAM"] if asking else []), why
