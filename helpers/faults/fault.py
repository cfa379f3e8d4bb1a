"""`Fault`: a way to break a running service, what shows then, three hints, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from helpers.faults.place import Place

LAYERS = ("image", "role", "network", "health check", "app", "scaling", "template")


def nothing(place: Place) -> list[str]:
    return []


@dataclass(frozen=True)
class Fault:
    """`breaks` and `mend` are made of API calls, or of a wrong app that is pushed; what `mend` needs to know, the API
    shows. `symptom`, in words, says what somebody noticed and not why. `shows`: whether AWS's records tell of it by now.
    `lacking`: what of this fault is left, in sentences, beside what every service needs to be well.
    """

    name: str
    layer: str
    symptom: str
    hints: tuple[str, str, str]
    breaks: Callable[[Place, Random], None]
    shows: Callable[[Place], bool]
    mend: Callable[[Place], None]
    lacking: Callable[[Place], list[str]] = nothing
