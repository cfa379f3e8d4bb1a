"""What a rule finds: a cause, how sure it is, the evidence for it, and the fix."""

from __future__ import annotations

from dataclasses import dataclass

# How sure a finding is. The numbers only order; from LIKELY on, a cause is called probable.
PROVEN = 90  # AWS says it in words, or the symptom is there and its cause was read
SHOWN = 70  # the cause was read, or AWS's words name it, but not both
LIKELY = 55  # the symptom is there, and what else could cause it was read and is in order
POSSIBLE = 35  # the symptom fits; the cause was not seen
NOTED = 15  # worth knowing, and no cause of trouble by itself


@dataclass(frozen=True)
class Finding:
    """`cause`: a sentence. `evidence`: what was read where, a line each. `fix`: a diff of the template, or a call.

    `decide`: for the less likely, the call whose answer would settle it.
    """

    cause: str
    weight: int
    evidence: tuple[str, ...] = ()
    fix: str = ""
    decide: str = ""
    rule: str = ""

    @property
    def probable(self) -> bool:
        return self.weight >= LIKELY
