"""Stands in for CloudFormation's template language: YAML and JSON, parameters, conditions, intrinsic functions, order.

Differs: no Transform, Rules, Hooks, Fn::ImportValue, Fn::ForEach and dynamic references (`{{resolve:…}}`): each is
refused by name. As on AWS the last of two equal keys wins; cfn-lint is what notices. Everything here is a pure
function of its arguments, so a template can be understood without a stack.
"""

from __future__ import annotations

import base64
import heapq
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

NO_VALUE = object()  # what AWS::NoValue resolves to: the property is as if it were not there
UNKNOWN = (
    "{{changeSet:KNOWN_AFTER_APPLY}}"  # CloudFormation's own words in a change set for a value not known yet
)
SECTIONS = {
    *("AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions"),
    *("Resources", "Outputs", "Transform", "Rules", "Hooks", "Globals"),
}
RESOURCE_KEYS = {
    *("Type", "Properties", "DependsOn", "Condition", "Metadata", "DeletionPolicy", "UpdateReplacePolicy"),
    *("CreationPolicy", "UpdatePolicy"),
}
CONDITION_FUNCTIONS = {"Fn::Equals", "Fn::And", "Fn::Or", "Fn::Not", "Condition"}
LIST_TYPES = re.compile(r"List<(.+)>|CommaDelimitedList")
SSM_TYPE = re.compile(r"AWS::SSM::Parameter::Value<(.+)>")
SUB_NAME = re.compile(r"\$\{(!?)([^${}]*)\}")


class TemplateError(Exception):
    """Why CloudFormation does not take a template or its parameters, in AWS's words; a ValidationError to the caller.

    `names`: what in the template it is about, so that its line can be told.
    """

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


@dataclass(frozen=True)
class Scope:
    """What a template's names stand for. `values`: parameters and pseudo parameters."""

    values: dict[str, Any]
    mappings: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, bool] = field(default_factory=dict)
    ref: Callable[[str], Any] = lambda name: UNKNOWN
    attribute: Callable[[str, str], Any] = lambda name, attribute: UNKNOWN
    zones: Callable[[str], list[str]] = lambda region: []


# --- reading ------------------------------------------------------------------------------------------------------


_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML has libyaml


class _Loader(_FAST):
    yaml_implicit_resolvers: ClassVar = {  # dates stay text: `Version: 2012-10-17` needs no quotes on AWS
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _short_form(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _short_form)


def parse(text: str) -> dict[str, Any]:
    """A template's text, YAML or JSON, with short forms (`!Ref X`) written out as `{"Ref": "X"}`."""
    try:
        body = json.loads(text) if text.lstrip().startswith("{") else _load(text)
    except json.JSONDecodeError as error:
        place = f"(line {error.lineno}, column {error.colno})"
        raise TemplateError(f"Template format error: JSON not well-formed. {place}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"(line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise TemplateError(f"Template format error: YAML not well-formed. {place}".rstrip()) from error
    except yaml.YAMLError as error:
        raise TemplateError("Template format error: YAML not well-formed.") from error
    if not isinstance(body, dict):
        raise TemplateError("Template format error: unsupported structure.")
    return body


REFERRING = ("Ref", "Fn::GetAtt", "Fn::Sub", "Fn::If", "DependsOn", "Condition", "Type")


def lines_of(text: str, names: Iterable[str]) -> dict[str, int]:
    """The line on which a template first refers to each name ("Cluster", "Service.Name"), else has it as a key."""
    try:
        root = yaml.compose(text, _Loader)
    except yaml.YAMLError:
        return {}
    referred, keys = {}, {}
    for function, line, word in _words(root, ""):
        for name in names:
            if function == "key" and word == name:
                keys.setdefault(name, line)
            elif function != "key" and _refers(function, word, name):
                referred.setdefault(name, line)
    return keys | referred


def _refers(function: str, word: str, name: str) -> bool:
    if function == "Fn::Sub":
        return any(
            not literal and (inner.strip() == name or inner.strip().startswith(f"{name}."))
            for literal, inner in SUB_NAME.findall(word)
        )
    return word == name or (function == "Fn::GetAtt" and word.startswith(f"{name}."))


def _words(node: yaml.Node, function: str) -> Iterator[tuple[str, int, str]]:
    """(function or "key", line from 1, text) of each key, and of each scalar that is a function's argument."""
    if node.tag.startswith("!"):
        short = node.tag[1:]
        function = short if short in ("Ref", "Condition") else f"Fn::{short}"
    if isinstance(node, yaml.ScalarNode):
        if function in REFERRING:
            block = node.style in ("|", ">")  # its text begins on the line after the sign
            for number, line in enumerate(node.value.split("\n")):
                yield function, node.start_mark.line + 1 + (number + 1 if block else 0), line
    elif isinstance(node, yaml.SequenceNode):
        if function == "Fn::GetAtt" and all(isinstance(one, yaml.ScalarNode) for one in node.value):
            yield function, node.start_mark.line + 1, ".".join(one.value for one in node.value)
        else:
            for inner in node.value:
                yield from _words(inner, function)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield "key", key.start_mark.line + 1, str(key.value)
            yield from _words(value, key.value if key.value in REFERRING else "")


def _load(text: str) -> Any:
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _FAST)):
        raise TemplateError("Template error: YAML aliases are not allowed in CloudFormation templates")
    return yaml.load(text, _Loader)


# --- checking -----------------------------------------------------------------------------------------------------


def check(body: dict[str, Any], attributes: Callable[[str], set[str] | None]) -> None:
    """Raise what CloudFormation says of a template that cannot be a stack.

    `attributes(type)`: the names that Fn::GetAtt may ask of a resource type; None for a type that is not known.
    """
    if extra := sorted(body.keys() - SECTIONS):
        raise TemplateError(
            f"Invalid template property or properties [{', '.join(map(str, extra))}]", *map(str, extra)
        )
    for section in ("Transform", "Rules", "Hooks", "Globals"):
        if section in body:
            raise TemplateError(f"Template format error: the sandbox does not support the section {section}.")
    if path := _null(body, ""):
        raise TemplateError(f"[{path}] 'null' values are not allowed in templates")
    resources = body.get("Resources")
    if not isinstance(resources, dict) or not resources:
        raise TemplateError("Template format error: At least one Resources member must be defined.")
    for name, resource in resources.items():
        _check_resource(str(name), resource)
    for name, output in body.get("Outputs", {}).items():
        if not isinstance(output, dict) or "Value" not in output:
            raise TemplateError(
                f"Template format error: Output {name} is malformed. The Value field is required.", str(name)
            )
    for section in ("Resources", "Outputs"):
        _check_names(body, section, attributes)
    start_order(dependencies(resources))


def _check_resource(name: str, resource: Any) -> None:
    if not name.isalnum():
        raise TemplateError(f"Template format error: Resource name {name} is non alphanumeric.", name)
    if not isinstance(resource, dict) or "Type" not in resource:
        every = "Every Resources object must contain a Type member."
        raise TemplateError(f"Template format error: [/Resources/{name}] {every}", name)
    for key in resource.keys() - RESOURCE_KEYS:
        raise TemplateError(f"Invalid template resource property '{key}'", str(key))
    for key in ("CreationPolicy", "UpdatePolicy"):
        if key in resource:
            raise TemplateError(
                f"Template format error: the sandbox does not support {key} (resource {name})."
            )
    for key in ("DeletionPolicy", "UpdateReplacePolicy"):
        if resource.get(key, "Delete") not in ("Delete", "Retain", "RetainExceptOnCreate"):
            raise TemplateError(
                f"Template error: {key} {resource[key]!r} is not supported by resource {name}"
            )


def _check_names(body: dict[str, Any], section: str, attributes: Callable[[str], set[str] | None]) -> None:
    resources = body["Resources"]
    known = resources.keys() | body.get("Parameters", {}).keys()
    missing: set[str] = set()
    for definition in body.get(section, {}).values():
        for function in _functions(definition):
            if function == "Fn::ImportValue" or function.startswith("Fn::ForEach"):
                raise TemplateError(f"Template error: the sandbox does not support {function}")
            if function not in FUNCTIONS and function not in CONDITION_FUNCTIONS:
                supported = ", ".join(
                    sorted(FUNCTIONS.keys() - {"Ref"} | CONDITION_FUNCTIONS - {"Condition"})
                )
                raise TemplateError(
                    f"Template error: Encountered unsupported function: {function} Supported functions are: [{supported}]"
                )
        wanted = definition.get("DependsOn", []) if section == "Resources" else []
        missing |= set([wanted] if isinstance(wanted, str) else wanted) - resources.keys()
        for name, attribute in references(definition):
            if attribute is None:
                if name not in known and not name.startswith("AWS::"):
                    missing.add(name)
            elif name not in resources:
                raise TemplateError(
                    f"Template error: instance of Fn::GetAtt references undefined resource {name}", name
                )
            elif (offered := attributes(resources[name]["Type"])) is not None and attribute not in offered:
                raise TemplateError(
                    f"Template error: resource {name} does not support attribute type {attribute} in Fn::GetAtt",
                    f"{name}.{attribute}",
                )
        for name in _condition_names(definition):
            if name not in body.get("Conditions", {}):
                raise TemplateError(
                    f"Template format error: Unresolved condition dependency {name} in the {section} block of the template",
                    name,
                )
    if missing:
        names = ", ".join(sorted(missing))
        raise TemplateError(
            f"Template format error: Unresolved resource dependencies [{names}] in the {section} block of the template",
            *sorted(missing),
        )


def _null(node: Any, path: str) -> str | None:
    if node is None:
        return path or "/"
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return next((found for key, value in items if (found := _null(value, f"{path}/{key}"))), None)


def _functions(node: Any) -> Iterator[str]:
    for inner in _walk(node):
        if isinstance(inner, dict) and len(inner) == 1 and str(next(iter(inner))).startswith("Fn::"):
            yield next(iter(inner))


def _condition_names(definition: Any) -> Iterator[str]:
    if isinstance(definition, dict) and isinstance(definition.get("Condition"), str):
        yield definition["Condition"]
    for node in _walk(definition):
        if isinstance(node, dict) and isinstance(node.get("Fn::If"), list) and node["Fn::If"]:
            yield node["Fn::If"][0]


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _walk(inner)


# --- parameters and conditions ------------------------------------------------------------------------------------


def parameter_values(declared: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """Each declared parameter's text, from `given` or its default, once it meets what the declaration asks."""
    if extra := sorted(given.keys() - declared.keys()):
        raise TemplateError(f"Parameters: [{', '.join(extra)}] do not exist in the template")
    if missing := [name for name, spec in declared.items() if name not in given and "Default" not in spec]:
        raise TemplateError(f"Parameters: [{', '.join(missing)}] must have values")
    values = {name: given.get(name, _text(spec.get("Default"))) for name, spec in declared.items()}
    for name, value in values.items():
        if problem := _parameter_problem(declared[name], value):
            described = declared[name].get("ConstraintDescription")
            problem = f"failed to satisfy constraint: {described}" if described else problem
            raise TemplateError(f"Parameter '{name}' {problem}")
    return values


def _parameter_problem(spec: dict[str, Any], value: str) -> str | None:
    kind = spec.get("Type", "String")
    values = split_list(value) if LIST_TYPES.fullmatch(kind) else [value]
    allowed = [_text(one) for one in spec.get("AllowedValues", [])]
    if allowed and any(one not in allowed for one in values):
        return "must be one of AllowedValues"
    if "AllowedPattern" in spec and any(not re.fullmatch(spec["AllowedPattern"], one) for one in values):
        return f"must match pattern {spec['AllowedPattern']}"
    if kind in ("Number", "List<Number>"):
        try:
            numbers = [float(one) for one in values]
        except ValueError:
            return "must be a number"
        if any(number < float(spec.get("MinValue", "-inf")) for number in numbers):
            return f"must be a number not less than {spec['MinValue']}"
        if any(number > float(spec.get("MaxValue", "inf")) for number in numbers):
            return f"must be a number not greater than {spec['MaxValue']}"
    if len(value) < int(spec.get("MinLength", 0)):
        return f"must contain at least {spec['MinLength']} characters"
    if len(value) > int(spec.get("MaxLength", 1 << 30)):
        return f"must contain at most {spec['MaxLength']} characters"
    return None


def split_list(value: str) -> list[str]:
    return [one.strip() for one in value.split(",")] if value else []


def evaluate_conditions(body: dict[str, Any], scope: Scope) -> dict[str, bool]:
    """Each condition of a template as true or false."""
    declared: dict[str, Any] = body.get("Conditions", {})
    done: dict[str, bool] = {}

    def value(node: Any, outer: tuple[str, ...]) -> bool:
        function, argument = (
            next(iter(node.items())) if isinstance(node, dict) and len(node) == 1 else (None, None)
        )
        if function == "Condition":
            return named(argument, outer)
        if function == "Fn::Equals":
            left, right = (_text(resolve(one, scope)) for one in argument)
            return left == right
        if function in ("Fn::And", "Fn::Or"):
            return (all if function == "Fn::And" else any)([value(one, outer) for one in argument])
        if function == "Fn::Not":
            return not value(argument[0], outer)
        raise TemplateError(
            "Template error: every Fn::Equals, Fn::And, Fn::Or, Fn::Not object requires a list of conditions"
        )

    def named(name: str, outer: tuple[str, ...]) -> bool:
        if name not in declared:
            raise TemplateError(
                f"Template format error: Unresolved condition dependency {name} in the Conditions block"
            )
        if name in outer:
            raise TemplateError(
                f"Template format error: Circular dependency between conditions: [{', '.join(outer)}]"
            )
        if name not in done:
            done[name] = value(declared[name], (*outer, name))
        return done[name]

    return {name: named(name, ()) for name in declared}


def choose(node: Any, conditions: dict[str, bool]) -> Any:
    """`node` with each Fn::If replaced by the branch that holds: what the other refers to is no dependency."""
    if isinstance(node, dict):
        if node.keys() == {"Fn::If"}:
            name, yes, no = node["Fn::If"]
            return choose(yes if conditions[name] else no, conditions)
        return {key: choose(value, conditions) for key, value in node.items()}
    return [choose(value, conditions) for value in node] if isinstance(node, list) else node


def active(section: dict[str, Any], conditions: dict[str, bool]) -> dict[str, Any]:
    """The resources or outputs whose condition holds, each with its branches chosen."""
    return {
        name: choose(definition, conditions)
        for name, definition in section.items()
        if conditions.get(definition.get("Condition"), True)
    }


# --- references and order -----------------------------------------------------------------------------------------


def references(node: Any) -> Iterator[tuple[str, str | None]]:
    """(name, attribute) of each Ref and Fn::Sub (attribute None) and Fn::GetAtt in `node`."""
    for inner in _walk(node):
        if not isinstance(inner, dict) or len(inner) != 1:
            continue
        function, argument = next(iter(inner.items()))
        if function == "Ref" and isinstance(argument, str):
            yield argument, None
        elif function == "Fn::GetAtt":
            name, attribute = _get_att(argument)
            yield name, attribute if isinstance(attribute, str) else None
        elif function == "Fn::Sub":
            text, own = argument if isinstance(argument, list) else (argument, {})
            for literal, name in SUB_NAME.findall(text):
                if not literal and name.strip() not in own:
                    logical, _, attribute = name.strip().partition(".")
                    yield logical, attribute or None


def dependencies(resources: dict[str, Any]) -> dict[str, set[str]]:
    """Which of `resources` each one needs first: by Ref, Fn::GetAtt, Fn::Sub or DependsOn."""
    needs = {}
    for name, definition in resources.items():
        explicit = definition.get("DependsOn", [])
        names = {explicit} if isinstance(explicit, str) else set(explicit)
        needs[name] = (
            names | {to for to, _ in references(definition.get("Properties", {}))}
        ) & resources.keys()
    return needs


def start_order(needs: dict[str, set[str]], takes: Callable[[str], float] = lambda name: 0.0) -> list[str]:
    """The order in which a parallel start would begin: each as soon as what it needs is there.

    `takes(name)`: how long a thing is in the making, in any unit. Equal times begin in the order of `needs`.
    """
    place = {name: index for index, name in enumerate(needs)}
    waiting = {name: set(before) for name, before in needs.items()}
    finish: dict[str, float] = {}
    ready = [(0.0, place[name], name) for name, before in waiting.items() if not before]
    heapq.heapify(ready)
    while ready:
        begin, _, name = heapq.heappop(ready)
        finish[name] = begin + takes(name)
        for other, before in waiting.items():
            if name in before:
                before.remove(name)
                if not before:
                    heapq.heappush(ready, (max(finish[one] for one in needs[other]), place[other], other))
    if len(finish) < len(needs):
        raise TemplateError(
            f"Circular dependency between resources: [{', '.join(_cycle(needs, set(finish)))}]"
        )
    return list(finish)


def _cycle(needs: dict[str, set[str]], done: set[str]) -> list[str]:
    """The names that wait for each other, without those that only wait for one of them."""
    stuck = {name: before - done for name, before in needs.items() if name not in done}
    while outside := stuck.keys() - set().union(*stuck.values()):
        stuck = {name: before for name, before in stuck.items() if name not in outside}
    return sorted(stuck)


# --- resolving ----------------------------------------------------------------------------------------------------


def resolve(node: Any, scope: Scope) -> Any:
    """`node` with every intrinsic function replaced by its value; NO_VALUE where AWS::NoValue is all there is."""
    if isinstance(node, dict):
        if len(node) == 1 and (function := FUNCTIONS.get(next(iter(node)))):
            return function(next(iter(node.values())), scope)
        values = {key: resolve(value, scope) for key, value in node.items()}
        return {key: value for key, value in values.items() if value is not NO_VALUE}
    if isinstance(node, list):
        return [value for one in node if (value := resolve(one, scope)) is not NO_VALUE]
    if isinstance(node, str) and "{{resolve:" in node:
        raise TemplateError(f"Template error: the sandbox does not support dynamic references: {node}")
    return node


def unknown(value: Any) -> bool:
    """Whether a value holds something that only executing the change set can tell."""
    return any(isinstance(one, str) and UNKNOWN in one for one in _walk(value))


def _text(value: Any) -> str:
    """A scalar as CloudFormation writes it into text."""
    if isinstance(value, (dict, list)):
        raise TemplateError("Template error: a string is required where the template gives a list or a map")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(function: str, argument: Any, scope: Scope, count: int) -> list[Any]:
    values = resolve(argument, scope)
    if not isinstance(values, list) or len(values) != count:
        raise TemplateError(f"Template error: every {function} object requires a list of {count} parameters")
    return values


def _get_att(argument: Any) -> tuple[str, Any]:
    parts = argument.split(".", 1) if isinstance(argument, str) else argument
    if not isinstance(parts, list) or len(parts) != 2:
        raise TemplateError(
            "Template error: every Fn::GetAtt object requires two non-empty parameters, the resource name and the "
            "resource attribute"
        )
    return parts[0], parts[1]


def _ref(name: Any, scope: Scope) -> Any:
    return scope.values[name] if name in scope.values else scope.ref(name)


def _fn_get_att(argument: Any, scope: Scope) -> Any:
    name, attribute = _get_att(argument)
    return scope.attribute(name, resolve(attribute, scope))


def _fn_sub(argument: Any, scope: Scope) -> str:
    text, own = argument if isinstance(argument, list) else (argument, {})
    own = resolve(own, scope)

    def value(match: re.Match[str]) -> str:
        literal, name = match.group(1), match.group(2).strip()
        if literal:
            return f"${{{name}}}"
        if name in own:
            return _text(own[name])
        if name in scope.values or "." not in name:
            return _text(_ref(name, scope))
        return _text(scope.attribute(*name.split(".", 1)))

    return SUB_NAME.sub(value, text)


def _fn_join(argument: Any, scope: Scope) -> str:
    between, parts = _arguments("Fn::Join", argument, scope, 2)
    if unknown(parts):
        return UNKNOWN
    if not isinstance(parts, list):
        raise TemplateError(
            "Template error: every Fn::Join object requires two parameters, a string delimiter and a list"
        )
    return between.join(_text(part) for part in parts)


def _fn_select(argument: Any, scope: Scope) -> Any:
    index, values = _arguments("Fn::Select", argument, scope, 2)
    if unknown(values) and not isinstance(values, list):
        return UNKNOWN
    if not isinstance(values, list) or not str(index).isdigit() or int(index) >= len(values):
        raise TemplateError(f"Template error: Fn::Select cannot select nonexistent value at index {index}")
    return values[int(index)]


def _fn_split(argument: Any, scope: Scope) -> Any:
    between, text = _arguments("Fn::Split", argument, scope, 2)
    return UNKNOWN if unknown(text) else _text(text).split(between)


def _fn_find_in_map(argument: Any, scope: Scope) -> Any:
    name, top, second = (_text(part) for part in _arguments("Fn::FindInMap", argument, scope, 3))
    if name not in scope.mappings:
        raise TemplateError(
            f"Template error: Mapping named '{name}' is not present in the 'Mappings' section of template."
        )
    try:
        return scope.mappings[name][top][second]
    except KeyError:
        raise TemplateError(f"Template error: Unable to get mapping for {name}::{top}::{second}") from None


def _fn_get_azs(argument: Any, scope: Scope) -> list[str]:
    return scope.zones(resolve(argument, scope) or scope.values["AWS::Region"])


def _fn_if(argument: Any, scope: Scope) -> Any:
    name, yes, no = argument
    return resolve(yes if scope.conditions[name] else no, scope)


def _fn_base64(argument: Any, scope: Scope) -> str:
    text = _text(resolve(argument, scope))
    return UNKNOWN if unknown(text) else base64.b64encode(text.encode()).decode()


FUNCTIONS: dict[str, Callable[[Any, Scope], Any]] = {
    "Ref": _ref,
    "Fn::GetAtt": _fn_get_att,
    "Fn::Sub": _fn_sub,
    "Fn::Join": _fn_join,
    "Fn::Select": _fn_select,
    "Fn::Split": _fn_split,
    "Fn::FindInMap": _fn_find_in_map,
    "Fn::GetAZs": _fn_get_azs,
    "Fn::If": _fn_if,
    "Fn::Base64": _fn_base64,
}


def names_in(node: Any, names: Iterable[str]) -> set[str]:
    """Which of `names` the node refers to without an attribute."""
    return {name for name, attribute in references(node) if attribute is None} & set(names)
