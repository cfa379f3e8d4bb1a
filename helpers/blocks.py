"""A template's text by its parts: a parameter or a resource with the comment above it, put from one into another."""

from __future__ import annotations

import re

from helpers.errors import TutorialError

NAME = re.compile(r"  (\w+):")
SPACED = "Resources:"  # the section whose parts have an empty line between them


def put(body: str, source: str, name: str) -> str:
    """`body` with the part `name` as `source` has it, in the place of its own or else after what is before it there."""
    section, parts = _section(source, name)
    known = [other for other, text in parts]
    own = dict(_sections(body)[section])
    taken = own | {name: dict(parts)[name]}
    if name not in own:
        before = [other for other in known[: known.index(name)] if other in own]
        order = list(own)
        place = order.index(before[-1]) + 1 if before else 0
        taken = {other: taken[other] for other in [*order[:place], name, *order[place:]]}
    between = "\n" if section == SPACED else ""
    head, _, rest = body.partition(f"{section}\n")
    tail = rest[len(_text(rest)) :]
    return f"{head}{section}\n{between.join(taken.values())}\n{tail}"


def _section(body: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    for section, parts in _sections(body).items():
        if name in dict(parts):
            return section, parts
    there = ", ".join(part for parts in _sections(body).values() for part, _ in parts)
    raise TutorialError(f"There is no {name} to take.", seen=f"the template has {there}")


def _sections(body: str) -> dict[str, list[tuple[str, str]]]:
    heads = re.findall(r"^(?:Parameters|Resources):$", body, re.MULTILINE)
    return {head: _parts(_text(body.partition(f"{head}\n")[2])) for head in heads}


def _text(rest: str) -> str:
    """Up to the next section."""
    ends = re.search(r"^(?=[^\s#])", rest, re.MULTILINE)
    return rest[: ends.start()] if ends else rest


def _parts(text: str) -> list[tuple[str, str]]:
    """Name and text of each; what stands above a name at its own depth belongs to it."""
    parts: list[tuple[str, str]] = []
    above = ""
    for line in text.splitlines(keepends=True):
        if found := NAME.match(line):
            parts.append((found.group(1), above + line))
            above = ""
        elif line.startswith("  #"):
            above += line
        elif line.strip():
            name, so_far = parts[-1]
            parts[-1] = (name, so_far + above + line)
            above = ""
    return parts
