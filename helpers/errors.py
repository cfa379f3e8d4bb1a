"""One family of errors: what happened, what was seen, what to do next.

In a notebook only the message shows, without a traceback: what is foreseeable needs no stack of frames.
"""

from __future__ import annotations


class TutorialError(Exception):
    """Something foreseeable went wrong. `what` happened, what was `seen`, what to do `next`."""

    def __init__(self, what: str, *, seen: str = "", next: str = ""):
        super().__init__(what)
        self.what, self.seen, self.next = what, seen, next

    def __str__(self) -> str:
        lines = [self.what]
        if self.seen:
            lines.append(f"Seen: {self.seen}")
        if self.next:
            lines.append(f"Next: {self.next}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback."""
        return f"{type(self).__name__}: {self}".splitlines()


class CheckFailed(TutorialError):
    """A claim that a notebook makes does not hold."""


class StackFailed(TutorialError):
    """CloudFormation could not do what the template asks for."""


class ServiceNotSteady(TutorialError):
    """An ECS service does not come to rest."""


class LoadFailed(TutorialError):
    """The load could not be made; failed requests are no LoadFailed but part of the report."""


class SandboxGone(TutorialError):
    """The sandbox that a notebook was connected to runs no more, or another one runs in its place."""


class SandboxRefuses(TutorialError):
    """The sandbox does not do what was asked of it beside AWS's API; `seen` are its words."""


class SetupError(TutorialError):
    """Something that the tutorial needs is missing on this machine."""
