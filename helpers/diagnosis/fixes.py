"""A fix as it is shown: a call with the real names filled in, or a short diff of the template that is deployed."""

from __future__ import annotations

import difflib
import re
from typing import Any

from helpers.diagnosis.facts import Evidence

WIDTH = 96
DRIFT = "\n# The template should say the same: what it says comes back with an update."


def call(service: str, operation: str, /, *, region: str = "", **arguments: Any) -> str:
    """The boto3 call, on one line when it fits; of a client of `region`, where that is not the learner's own."""
    where = f', region_name="{region}"' if region else ""
    client = f'boto3.client("{service}"{where}).{operation}('
    line = client + ", ".join(f"{name}={_literal(value)}" for name, value in arguments.items()) + ")"
    if len(line) <= WIDTH:
        return line
    told = [f"    {name}={_broken(value, 4, len(name) + 2)}," for name, value in arguments.items()]
    return "\n".join([client, *told, ")"])


def _broken(value: Any, indent: int, taken: int) -> str:
    """As Python, one item a line where it does not fit into a line of which so many columns are taken."""
    text = _literal(value)
    if indent + taken + len(text) <= WIDTH or not isinstance(value, dict | list | tuple) or not value:
        return text
    inner = indent + 4
    if isinstance(value, dict):
        told = [f"{_literal(key)}: {_broken(each, inner, len(key) + 5)}" for key, each in value.items()]
    else:
        told = [_broken(each, inner, 1) for each in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    lines = "".join(f"\n{' ' * inner}{line}," for line in told)
    return f"{begin}{lines}\n{' ' * indent}{end}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def open_port(side: str, group: str, port: int, **whom: Any) -> str:
    """Let a security group take TCP in (`side`: "ingress") or send it out ("egress") on one port; `whom` as in an
    IpPermission: UserIdGroupPairs or IpRanges."""
    rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **whom}
    return call("ec2", f"authorize_security_group_{side}", GroupId=group, IpPermissions=[rule])


def new_image(e: Evidence, uri: str) -> str:
    """Deploy another image: as a parameter where the template takes it as one, else by a diff."""
    kind = "AWS::ECS::TaskDefinition"
    line = in_template(e, kind, r"Image: *!Ref")
    parameters = [p.get("ParameterKey") or "" for p in e.one("stack").get("Parameters") or []]
    name = line.rpartition(" ")[2]
    if not line or name not in parameters:
        listed = in_template(e, kind, r"^\s*- Image:")
        return diff(
            e, kind, f"{'- ' if listed else ''}Image: {uri}", removed="- Image:" if listed else "Image:"
        )
    values = [
        {"ParameterKey": key} | ({"ParameterValue": uri} if key == name else {"UsePreviousValue": True})
        for key in parameters
    ]
    if e.one("stack").get("StackStatus") == "ROLLBACK_COMPLETE":
        return (
            f"{call('cloudformation', 'delete_stack', StackName=e.stack_name)}  # it takes no update\n"
            f"# then create it again, with {name}={uri}"
        )
    return call(
        "cloudformation",
        "update_stack",
        StackName=e.stack_name,
        UsePreviousTemplate=True,
        Parameters=values,
        Capabilities=["CAPABILITY_IAM"],
    )


def redeploy(e: Evidence) -> str:
    """Let ECS try again at once, instead of waiting for its next try."""
    return call("ecs", "update_service", cluster=e.cluster, service=e.service_name, forceNewDeployment=True)


def logical_id(e: Evidence, kind: str, physical: str = "") -> str:
    """The name in the template of the resource of this type, and with this physical id if there are several: "" when none
    of them has it."""
    found = [r for r in e.many("stack_resources") if r.get("ResourceType") == kind]
    if physical and len(found) > 1:
        found = [r for r in found if r.get("PhysicalResourceId") == physical]
        if not found:
            return ""
    for resource in found:
        if resource.get("LogicalResourceId"):
            return resource["LogicalResourceId"]
    match = re.search(rf"^ +(\w+):\s*\n\s+Type: {re.escape(kind)}\s*$", e.text("template"), re.MULTILINE)
    return match.group(1) if match else kind.rsplit("::", 1)[-1]


def diff(
    e: Evidence, kind: str, added: str, *, removed: str = "", after: str = "Properties:", physical: str = ""
) -> str:
    """A unified diff of the resource of type `kind`: `added` in the place of the line that begins with `removed`, or
    after the one that begins with `after`. Of a template that could not be read, the changed lines alone."""
    name = logical_id(e, kind, physical)
    lines = e.text("template").splitlines()
    begin, end = _block(lines, name)
    place = _line(lines, begin, end, removed) if removed else None
    anchor = _line(lines, begin, end, after)
    changed = list(lines)
    if place is not None:
        changed[place : place + 1] = _indented(added, _indent(lines[place]))
    elif anchor is not None:
        inner = _indent(lines[anchor]) + (2 if lines[anchor].rstrip().endswith(":") else 0)
        changed[anchor + 1 : anchor + 1] = _indented(added, inner)
    else:
        minus = [f"-      {removed}"] if removed else []
        plus = [f"+      {line}" for line in added.splitlines()]
        return "\n".join(["--- template", "+++ template", f"@@ {name} ({kind}) @@", *minus, *plus])
    told = list(difflib.unified_diff(lines, changed, "template", "template", n=1, lineterm=""))
    return "\n".join(re.sub(r"^@@.*@@$", f"@@ {name} @@", line) for line in told)


def in_template(e: Evidence, kind: str, pattern: str, physical: str = "") -> str:
    """The first line of this resource in the template that matches, stripped; "" for none."""
    lines = e.text("template").splitlines()
    begin, end = _block(lines, logical_id(e, kind, physical))
    return next((line.strip() for line in lines[begin:end] if re.search(pattern, line)), "")


def value_of(e: Evidence, kind: str, name: str, physical: str = "") -> str:
    """A property's value as the template has it, without quotes and comment; "" for none."""
    line = in_template(e, kind, rf"^\s+{name}:", physical)
    return re.sub(r"\s+#.*$", "", line.partition(":")[2]).strip().strip("'\"")


def _block(lines: list[str], name: str) -> tuple[int, int]:
    """Where a resource begins and ends; (0, 0) when it is not there."""
    begin = next((n for n, line in enumerate(lines) if re.fullmatch(rf" +{re.escape(name)}:\s*", line)), None)
    if begin is None or not name:
        return 0, 0
    depth = _indent(lines[begin])
    for number in range(begin + 1, len(lines)):
        line = lines[number]
        if line.strip() and not line.lstrip().startswith("#") and _indent(line) <= depth:
            return begin, number
    return begin, len(lines)


def _line(lines: list[str], begin: int, end: int, starts: str) -> int | None:
    return next((n for n in range(begin, end) if lines[n].strip().startswith(starts)), None)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _indented(text: str, columns: int) -> list[str]:
    return [f"{' ' * columns}{line}" for line in text.splitlines()]
