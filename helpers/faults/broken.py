"""`break_it` and what it hands out: a `Broken`, with which a person looks, asks for hints, mends and is timed.

What is broken is noted in a tag on the cluster before anything is changed: another notebook knows of it, and so does
this one after an interruption. The tag of a surprise holds its seed and not the fault's name.
"""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from random import Random
from typing import TYPE_CHECKING, Any

from helpers import display
from helpers.calls import client, patience, polls
from helpers.errors import TutorialError
from helpers.faults import scores
from helpers.faults.fault import Fault
from helpers.faults.health import GRACE
from helpers.faults.place import Place
from helpers.faults.put_back import put_back
from helpers.faults.revisions import back_to_the_stack
from helpers.faults.scaling import after_the_busy_day
from helpers.faults.table import FAULTS
from helpers.faults.wellness import WELL_WITHIN, Verdict, examine, until_well

if TYPE_CHECKING:
    from helpers.session import Session

TAG = "tutorial:broken"
SHOWS_WITHIN = 30.0  # AWS minutes
SHOWS_AT_LEAST = (
    60.0  # real seconds: an app's start and its grace period are real time, however fast AWS's passes
)
LINGER = 1.0  # AWS minutes
REST_WITHIN = 15.0  # AWS minutes to come to rest before it is broken


@dataclass
class Broken:
    """A service with a fault. `seed`: what chose its details, and the fault itself if it is a surprise."""

    lab: Session = field(repr=False)
    fault: Fault = field(repr=False)
    seed: int
    surprise: bool
    began: float  # real, of the epoch
    hints: int = 0
    mended_by: str = "hand"
    minutes_taken: float | None = None

    @property
    def symptom(self) -> str:
        """What somebody noticed, and not why."""
        return self.fault.symptom

    @property
    def minutes(self) -> float:
        """Real minutes since the symptom showed; once all is well again, until then."""
        return round((time.time() - self.began) / 60 if self.minutes_taken is None else self.minutes_taken, 1)

    def hint(self, number: int) -> Text:
        """The first says where to look, the second what to compare, the third gives it away."""
        if number not in (1, 2, 3):
            raise TutorialError("There are three hints.", seen=f"hint({number!r})", next="Ask for hint(1).")
        self.hints = max(self.hints, number)
        return Text(display.wrap(self.fault.hints[number - 1]))

    def reveal(self) -> str:
        """The fault's name and layer."""
        return f"{self.fault.name} ({self.fault.layer})"

    @property
    def solution(self) -> Text:
        """What `mend` does about the fault, as Python with plain calls of boto3."""
        return Text(inspect.getsource(self.fault.mend))

    def mend(self) -> None:
        """Put back what else was tried, and mend it, by the calls that `solution` shows; `verify` then waits until the
        service is well."""
        self.mended_by = "mend"
        self.lab.go_on()
        put_back(self._place, self.fault)
        self.fault.mend(self._place)

    def verify(self, minutes: float | None = None) -> Verdict:
        """Whether the service is well again: AWS time goes on, and so many AWS `minutes` it may take at most (30, or a
        real minute, unless told). The round is over when it is; when it is not, time is paused again."""
        self.lab.go_on()
        usual = max(WELL_WITHIN, SHOWS_AT_LEAST * self.lab.speed / 60)
        verdict = until_well(self._place, self.fault, usual if minutes is None else minutes)
        if not verdict.well:
            self.lab.hold()
        elif self.minutes_taken is None:
            self._end()
        return verdict

    def _end(self) -> None:
        self.minutes_taken = (time.time() - self.began) / 60
        if _noted(self._place) is None:
            return  # whoever took it up elsewhere has the score
        _forget(self._place)
        scores.add(
            self.lab,
            fault=self.fault.name,
            layer=self.fault.layer,
            minutes=round(self.minutes_taken, 2),
            hints=self.hints,
            by=self.mended_by,
        )

    @property
    def _place(self) -> Place:
        return Place(self.lab.name, self.lab.region)

    def __repr__(self) -> str:
        what = f"A surprise, seed {self.seed}." if self.surprise else f"{self.reveal()}, seed {self.seed}."
        ended = (
            f"It took {self.minutes:g} minutes."
            if self.minutes_taken is not None
            else f"{self.minutes:g} minutes so far. hint(1), hint(2), hint(3) help."
        )
        return "\n".join((display.wrap(self.symptom), f"{what} {ended}"))


class Text(str):
    """Shown as it is, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def break_it(lab: Session, name: str | None = None, *, seed: int | None = None) -> Broken:
    """Break the lab's service, wait until it shows, and stop AWS time there.

    The fault called `name`, or the one that `seed` chooses, any when neither is told. `seed` chooses names, ports and
    paths, too. What is broken in this very way already is handed out as it is. TutorialError when there is no such
    fault, nothing to break, or the service is not well as it is.
    """
    if lab.target != "sandbox":
        raise TutorialError(
            "Only the sandbox is broken on purpose.",
            seen=f"target={lab.target!r}",
            next='Connect with connect("sandbox").',
        )
    if isinstance(name, int):
        raise TutorialError(
            "A fault has a name.", seen=repr(name), next=f"For a surprise say break_it(seed={name})."
        )
    if name is not None and name not in FAULTS:
        near = get_close_matches(str(name), FAULTS, n=1, cutoff=0.5)
        raise TutorialError(
            f"There is no fault {name!r}.",
            seen=f"the faults are {', '.join(FAULTS)}",
            next=f"Say break_it({near[0] if near else next(iter(FAULTS))!r}).".replace("'", '"'),
        )
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool)):
        raise TutorialError("A seed is a whole number.", seen=f"seed={seed!r}", next="Say break_it(seed=7).")
    place = Place(lab.name, lab.region)
    _ensure_built(place)
    if seed is None:
        seed = Random().randrange(10_000) if name is None else 0
    surprise = name is None
    fault = FAULTS[name] if name else chosen(seed)
    there = _taken_up(lab)
    if there is not None:
        if (there.fault, there.seed) == (fault, seed):
            print(f"It is broken already, in this very way, since {there.minutes:g} minutes.")
            return there
        raise _broken_already(there)
    lab.go_on()
    _make_ready(place)
    broken = Broken(lab, fault, seed, surprise, time.time())
    _note(place, broken)
    since = lab.now()
    try:
        fault.breaks(place, Random(f"{fault.name} {seed}"))
    except TutorialError:  # it could not be broken; after an interrupt nobody knows, and the note stays
        _forget(place)
        raise
    shown = _until_it_shows(Place(lab.name, lab.region, since), fault, lab.speed)
    for _ in polls(
        LINGER
    ):  # a little more to look at: a failure that repeats itself, a task that is replaced
        pass
    lab.hold()
    broken.began = time.time()
    _note(place, broken)
    if not shown:
        print("It is broken, and does not show yet: lab.resume(), and look again in a while.")
    return broken


def chosen(seed: int) -> Fault:
    """The fault that a seed stands for."""
    return FAULTS[Random(f"surprise {seed}").choice(list(FAULTS))]


def take_up(lab: Session) -> Broken | None:
    """What `break_it` broke in this lab and nobody has mended yet, in whichever notebook it was. When nothing is, it says
    so, and None is returned."""
    there = _taken_up(lab)
    if there is None:
        print(f"Nothing is broken in {lab.name}, as far as break_it knows.")
    return there


def _taken_up(lab: Session) -> Broken | None:
    noted = _noted(Place(lab.name, lab.region))
    if noted is None:
        return None
    name, seed, began = noted.split(" ")
    fault = chosen(int(seed)) if name == "surprise" else FAULTS[name]
    return Broken(lab, fault, int(seed), name == "surprise", float(began))


def _broken_already(there: Broken) -> TutorialError:
    what = f"a surprise, seed {there.seed}" if there.surprise else there.reveal()
    return TutorialError(
        "The service is broken already.",
        seen=f"{what}, since {there.minutes:g} minutes: {there.symptom}",
        next="Take it up: `from helpers.faults import take_up`, `broken = take_up(lab)`. Mend it, or have it mended "
        "(`broken.mend()`), and let `broken.verify()` see that it is well; then break something else.",
    )


def _ensure_built(place: Place) -> None:
    """TutorialError unless notebook 08 has been here."""
    from botocore.exceptions import ClientError

    nothing = TutorialError(
        f"There is no service {place.name} with auto scaling to break.",
        next='Make it: lab.catch_up(through="08").',
    )
    try:
        if place.service.scaling is None:
            raise nothing
        _ = place.service.record, place.stack
    except (ClientError, TutorialError):
        raise nothing from None


def _make_ready(place: Place) -> None:
    """The stack's own revision, at rest: what somebody tried before must not be taken for a symptom."""
    after_the_busy_day(place)
    record = place.service.record
    if record["taskDefinition"] != place.outputs["TaskDefinitionArn"]:
        back_to_the_stack(place)
    if record.get("healthCheckGracePeriodSeconds") != GRACE:
        place.update(healthCheckGracePeriodSeconds=GRACE)
    if place.service.scaling.minimum < record["desiredCount"]:
        place.update(desiredCount=place.service.scaling.minimum)
    told = examine(place)
    for _ in polls(patience(REST_WITHIN)) if told else ():
        if not (told := examine(place)):
            break
    if told:
        raise TutorialError(
            "The service is not well as it is: what break_it does to it could not be told from that.",
            seen="; ".join(told),
            next="lab.diagnose() says what is wrong. Mend that first.",
        )


def _until_it_shows(place: Place, fault: Fault, speed: float) -> bool:
    return any(fault.shows(place) for _ in polls(max(SHOWS_WITHIN, SHOWS_AT_LEAST * speed / 60)))


# The note


def _cluster_arn(place: Place) -> str | None:
    clusters = client("ecs").describe_clusters(clusters=[place.name])["clusters"]
    return next((one["clusterArn"] for one in clusters if one["status"] == "ACTIVE"), None)


def _note(place: Place, broken: Broken) -> None:
    name = "surprise" if broken.surprise else broken.fault.name
    value = f"{name} {broken.seed} {broken.began:.0f}"
    client("ecs").tag_resource(resourceArn=_cluster_arn(place), tags=[{"key": TAG, "value": value}])


def _noted(place: Place) -> str | None:
    arn = _cluster_arn(place)
    tags: list[dict[str, Any]] = client("ecs").list_tags_for_resource(resourceArn=arn)["tags"] if arn else []
    return next((tag["value"] for tag in tags if tag["key"] == TAG), None)


def _forget(place: Place) -> None:
    client("ecs").untag_resource(resourceArn=_cluster_arn(place), tagKeys=[TAG])
