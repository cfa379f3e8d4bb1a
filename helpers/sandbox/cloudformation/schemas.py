"""Stands in for CloudFormation's registry: what each resource type's properties are, and which of them replace it.

Differs: the schemas are those that cfn-lint carries for us-east-1, read from its data files (importing cfn-lint takes
seconds). Names, required keys, types, enumerations and bounds are checked; patterns and lengths are left to the
service, which refuses them in its own words.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PROVIDER = "us-east-1"
NAMES = {"string": "String", "integer": "Integer", "number": "Number", "boolean": "Boolean"}
NAMES |= {"array": "JSONArray", "object": "JSONObject"}


@dataclass(frozen=True)
class Schema:
    """One resource type. Property names are those of the first level."""

    document: dict[str, Any]
    create_only: frozenset[str]  # a change makes a new physical resource
    conditional: frozenset[str]  # a change may do so
    read_only: frozenset[str]
    taggable: bool
    system_tags: bool  # whether CloudFormation adds its aws:cloudformation:… tags

    def conform(self, properties: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """`properties` with scalars as their declared types ("256" → 256), and what is wrong with them."""
        problems: list[str] = []
        return self._object(self.document, properties, "#", problems), problems

    def _node(self, schema: dict[str, Any], value: Any, path: str, problems: list[str]) -> Any:
        if reference := schema.get("$ref"):
            schema = self.document["definitions"][reference.rsplit("/", 1)[-1]]
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        if not types:
            return self._object(schema, value, path, problems) if "properties" in schema else value
        for kind in types:
            fits, converted = _convert(kind, value)
            if fits:
                break
        else:
            expected = " or ".join(NAMES.get(kind, kind) for kind in types)
            problems.append(f"{path}: expected type: {expected}, found: {_type_name(value)}")
            return value
        if isinstance(converted, dict):
            return self._object(schema, converted, path, problems)
        if isinstance(converted, list):
            items = schema.get("items", {})
            return [self._node(items, one, f"{path}/{n}", problems) for n, one in enumerate(converted)]
        if "enum" in schema and converted not in schema["enum"]:
            problems.append(f"{path}: failed validation constraint for keyword [enum]")
        if kind in ("integer", "number"):
            if converted < schema.get("minimum", converted):
                problems.append(f"{path}: {converted} is not greater or equal to {schema['minimum']}")
            if converted > schema.get("maximum", converted):
                problems.append(f"{path}: {converted} is not less or equal to {schema['maximum']}")
        return converted

    def _object(self, schema: dict[str, Any], value: Any, path: str, problems: list[str]) -> Any:
        known = schema.get("properties", {})
        top = path == "#"
        result = {}
        for key, inner in value.items():
            if key in known and not (top and key in self.read_only):
                result[key] = self._node(known[key], inner, f"{path}/{key}", problems)
            elif schema.get("additionalProperties") is False and not schema.get("patternProperties"):
                problems.append(f"{path}: extraneous key [{key}] is not permitted")
            else:
                result[key] = inner
        problems += [
            f"{path}: required key [{key}] not found"
            for key in schema.get("required", ())
            if key not in value
        ]
        return result


def _convert(kind: str, value: Any) -> tuple[bool, Any]:
    """Whether a template's value can be of this JSON type, and the value as one. Templates often quote scalars."""
    if kind in ("array", "object"):
        return isinstance(value, list if kind == "array" else dict), value
    if isinstance(value, (list, dict)):
        return False, value
    if kind == "boolean":
        text = str(value).lower()
        return text in ("true", "false"), text == "true"
    if kind == "string":
        return True, str(value).lower() if isinstance(value, bool) else str(value)
    if kind in ("integer", "number") and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            return False, value
        whole = number.is_integer()
        return whole or kind == "number", int(number) if whole else number
    return False, value


def _type_name(value: Any) -> str:
    kinds = {bool: "Boolean", int: "Integer", float: "Number", list: "JSONArray", dict: "JSONObject"}
    return kinds.get(type(value), "String")


def _folder() -> Path:
    spec = importlib.util.find_spec("cfnlint")  # finds the package without running it
    if spec is None or spec.origin is None:
        raise RuntimeError("the sandbox reads CloudFormation's resource schemas from cfn-lint: install it")
    return Path(spec.origin).parent / "data" / "schemas"


@cache
def known_types() -> dict[str, str]:
    """The file of each of AWS's resource types."""
    return json.loads((_folder() / "providers" / f"{PROVIDER}.json").read_text("utf-8"))


@cache
def schema(resource_type: str) -> Schema:
    """KeyError for a type that AWS does not have."""
    document = json.loads(
        (_folder() / "resources" / f"{known_types()[resource_type]}.json").read_text("utf-8")
    )
    tagging = document.get("tagging", {})
    return Schema(
        document,
        create_only=_top(document, "createOnlyProperties"),
        conditional=_top(document, "conditionalCreateOnlyProperties"),
        read_only=_top(document, "readOnlyProperties"),
        taggable=tagging.get("taggable", False),
        system_tags=tagging.get("cloudFormationSystemTags", False),
    )


def _top(document: dict[str, Any], key: str) -> frozenset[str]:
    return frozenset(path.split("/")[2] for path in document.get(key, ()))
