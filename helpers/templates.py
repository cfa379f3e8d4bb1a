"""The numbered CloudFormation templates: read them, see what one adds to another, lint them.

They are the files that `aws cloudformation deploy --template-file` takes; nothing is filled in or rewritten here.
Each holds all of the one before, so that one stack grows from step to step.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import yaml

from helpers import blocks
from helpers.display import box, table
from helpers.errors import TutorialError

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
CONTEXT = 2  # lines around each change in a diff


def template(step: str) -> Template:
    """The template that belongs to a notebook, by its number: "06", "07" or "08"; or a lab's, by its name."""
    files = _files() | {path.stem: path for path in sorted(TEMPLATES.glob("labs/*.yaml"))}
    path = files.get(str(step).zfill(2))
    if path is None:
        raise TutorialError(
            f"There is no template for step {step!r}.",
            seen=f"the steps with a template: {', '.join(files) or 'none'}",
            next="Ask for one of these, such as template('06').",
        )
    return Template(path.stem, path.read_text(encoding="utf-8"))


def _files() -> dict[str, Path]:
    return {path.name[:2]: path for path in sorted(TEMPLATES.glob("[0-9][0-9]-*.yaml"))}


@dataclass(frozen=True)
class Template:
    """A CloudFormation template. `body` is the text that `TemplateBody` takes; the repr lists its resources."""

    name: str
    body: str = field(repr=False)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The body as data, with `!Ref X` written out as {"Ref": "X"} and so on."""
        try:
            content = yaml.load(self.body, _Loader)
        except yaml.YAMLError as error:
            raise TutorialError(
                f"The template {self.name} is not YAML.", seen=_says(error), next="Mend that line."
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("Resources"), dict):
            raise TutorialError(
                f"The template {self.name} has no Resources.",
                seen=f"it begins {self.body.strip()[:40]!r}",
                next="Put its resources, by name, under `Resources:`.",
            )
        return content

    @property
    def resources(self) -> dict[str, str]:
        """Logical id → type, in the order of the file."""
        kinds = {}
        for name, resource in self.content["Resources"].items():
            if not isinstance(resource, dict) or "Type" not in resource:
                raise TutorialError(
                    f"The resource {name} in the template {self.name} has no Type.",
                    seen=f"line {_line_of(self.body, name)}",
                    next="Say what it is, such as `Type: AWS::ECS::Cluster`.",
                )
            kinds[name] = resource["Type"]
        return kinds

    @property
    def asks_for(self) -> list[str]:
        """The names of its parameters."""
        return list(self.content.get("Parameters", {}))

    def parameters(self, **values: str) -> list[dict[str, Any]]:
        """What `Parameters` of a change set takes; what is not given stays as the stack has it."""
        if extra := sorted(values.keys() - set(self.asks_for)):
            raise TutorialError(
                f"{self.name}.yaml has no parameter {', '.join(extra)}.",
                seen=f"it asks for {', '.join(self.asks_for)}",
                next="Leave it out.",
            )
        return [
            {"ParameterKey": name, "ParameterValue": values[name]}
            if name in values
            else {"ParameterKey": name, "UsePreviousValue": True}
            for name in self.asks_for
        ]

    def parameters_of(self, known: dict[str, str]) -> list[dict[str, Any]]:
        """What `Parameters` takes, of the values `known` those that this template asks for; all when it is no YAML."""
        try:
            asked = [name for name in self.asks_for if name in known]
        except TutorialError:
            asked = list(known)
        return [{"ParameterKey": name, "ParameterValue": known[name]} for name in asked]

    def mended(self, old: str, new: str) -> Template:
        """This template with the text `old`, which stands in it once, replaced by `new`."""
        if (times := self.body.count(old)) != 1:
            raise TutorialError(
                f"{self.name}.yaml has to have this text once, to be mended there.",
                seen=f"{times} times: {old.strip()}",
                next="Copy it from the template; more of it if it stands there more than once.",
            )
        return Template(self.name, self.body.replace(old, new))

    def taking(self, *names: str, of: str = "08") -> Template:
        """This template with these parameters and resources as another one has them, each in that one's place."""
        body, source = self.body, template(of).body
        for name in names:
            body = blocks.put(body, source, name)
        return Template(self.name, body)

    def change_type(self, stack_name: str) -> str:
        """`ChangeSetType` for this stack: "CREATE" as long as there is none, else "UPDATE"."""
        return "UPDATE" if _status(stack_name) not in (None, "REVIEW_IN_PROGRESS") else "CREATE"

    def or_later(self, stack_name: str) -> Template:
        """This template, or the later one that the stack has grown to: an earlier one would delete what came since."""
        if _status(stack_name) in (None, "REVIEW_IN_PROGRESS"):
            return self
        found = _cloudformation().describe_stack_resources(StackName=stack_name)["StackResources"]
        there = {one["LogicalResourceId"] for one in found if one["ResourceStatus"] != "DELETE_COMPLETE"}
        grown = self
        for later in map(template, _files()):
            if later.name > self.name and (later.resources.keys() - grown.resources.keys()) & there:
                grown = later
        return grown

    @property
    def source(self) -> Source:
        """Its text, as a cell shows it."""
        return Source(self.body)

    def diff(self, other: Template | str) -> Diff:
        """What the later of this template and `other` (one, or a step's number) has that the earlier has not."""
        other = template(other) if isinstance(other, str) else other
        return Diff(*sorted((self, other), key=lambda one: one.name))

    def lint(self) -> Findings:
        """What cfn-lint finds: errors and warnings, with its own settings. Empty means clean."""
        from cfnlint.api import lint_all  # loads every resource's schema: seconds

        findings: dict[tuple[str, int, str], list[str]] = {}
        for match in lint_all(self.body):
            if match.rule.id[0] in "EW":
                # A type that AWS does not have is found once for each region.
                said, _, region = match.message.partition(" in '")
                alike = said if region else match.message
                findings.setdefault((match.rule.id, match.linenumber, alike), []).append(match.message)
        found = [
            Finding(rule, line, same[0] if len(same) == 1 else f"{said}, in {len(same)} regions")
            for (rule, line, said), same in findings.items()
        ]
        return Findings(self.name, sorted(found, key=lambda finding: finding.line))

    def __repr__(self) -> str:
        width = max(map(len, self.resources))
        table = [f"  {name:<{width}}  {kind}" for name, kind in self.resources.items()]
        return "\n".join([self._title(), *table])

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._title())}</p>{table(('resource', 'type'), self.resources.items())}"

    def _title(self) -> str:
        asked = ", ".join(self.asks_for) or "nothing"
        return f"{self.name}.yaml: {len(self.resources)} resources; it asks for {asked}"


class Source(str):
    """A text that stands in a box of its own in a notebook."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return box(escape(self))


@dataclass(frozen=True)
class Diff:
    """From one template to another, line by line. Readable as text; coloured in a notebook."""

    old: Template
    new: Template

    @cached_property
    def lines(self) -> list[str]:
        """As `diff -u` has them, without its two lines of file names."""
        old, new = self.old.body.splitlines(), self.new.body.splitlines()
        return list(difflib.unified_diff(old, new, lineterm="", n=CONTEXT))[2:]

    @property
    def added(self) -> list[str]:
        return [line[1:] for line in self.lines if line.startswith("+")]

    @property
    def removed(self) -> list[str]:
        return [line[1:] for line in self.lines if line.startswith("-")]

    @property
    def title(self) -> str:
        new = [name for name in self.new.resources if name not in self.old.resources]
        gone = [name for name in self.old.resources if name not in self.new.resources]
        told = [f"{len(self.added)} lines added, {len(self.removed)} removed"]
        told += [f"new: {', '.join(new)}"] if new else []
        told += [f"gone: {', '.join(gone)}"] if gone else []
        return f"{self.old.name} → {self.new.name}: {'; '.join(told)}"

    def __repr__(self) -> str:
        return "\n".join([self.title, *self.lines])

    def _repr_html_(self) -> str:
        colours = {"+": "background:#2da44e33", "-": "background:#cf222e33", "@": "opacity:.5"}
        rows = "".join(
            f'<span style="display:block;{colours.get(line[:1], "")}">{escape(line) or " "}\n</span>'
            for line in self.lines
        )
        return f"<p>{escape(self.title)}</p>{box(rows)}"


@dataclass(frozen=True)
class Finding:
    """One thing that cfn-lint does not like. `rule`: E… an error, W… a warning."""

    rule: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {textwrap.shorten(self.message, 160, placeholder='…')} ({self.rule})"


class Findings(list[Finding]):
    """cfn-lint's findings, by line. The repr is a sentence when there is none."""

    def __init__(self, name: str, findings: list[Finding]):
        super().__init__(findings)
        self.name = name

    def __repr__(self) -> str:
        if not self:
            return f"cfn-lint finds nothing wrong with {self.name}.yaml."
        return "\n".join([f"cfn-lint on {self.name}.yaml:", *(f"  {finding}" for finding in self)])


def _says(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _line_of(body: str, name: str) -> int | str:
    lines = enumerate(body.splitlines(), 1)
    return next((number for number, line in lines if line.strip().startswith(f"{name}:")), "?")


def _cloudformation() -> Any:
    import boto3

    return boto3.client("cloudformation")


def _status(stack_name: str) -> str | None:
    """A stack's status; None when there is no such stack."""
    from botocore.exceptions import ClientError

    try:
        return _cloudformation().describe_stacks(StackName=stack_name)["Stacks"][0]["StackStatus"]
    except ClientError as error:
        if "does not exist" not in error.response["Error"]["Message"]:
            raise
        return None


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms too."""


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
