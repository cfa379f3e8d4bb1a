"""`diagnose`: why a service does not do what it should, by what AWS's API shows: cause, evidence, fix.

It reads AWS's API and nothing else, so that it says the same on AWS as here. The rules are in `helpers.diagnosis`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from helpers.diagnosis.evidence import gather
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import LIKELY, POSSIBLE, Finding
from helpers.diagnosis.reader import ASKED, Reader, items
from helpers.diagnosis.table import RULES, examine
from helpers.display import wrap
from helpers.errors import TutorialError

MOST_CLUSTERS = 100  # whose services are listed
MOST_LESS_LIKELY = 4
MOST_UNREAD = 6
NOT_AT_REST = "Not at rest yet, and nothing that was read says why."


@dataclass(frozen=True)
class Diagnosis:
    """`causes`: the most probable first. `notes`: what will be one some day, while all is well. `checked`: the answers
    that were read; `unread`: those that were not, and why.

    `about`: what was looked at, and how it stands. `wanted`: the answers without which nothing is called well: the
    service, and a stack that was named. `at_rest`: whether nothing is on its way; `young`: whether that may be why.
    """

    about: str
    causes: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    wanted: tuple[str, ...] = ("service",)
    at_rest: bool = True
    young: bool = False
    notes: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether what was asked about was read, is at rest, and nothing is wrong with it."""
        return self._read and self.at_rest and not self.causes

    @property
    def _read(self) -> bool:
        return set(self.wanted) <= set(self.checked)

    @property
    def cause(self) -> Finding | None:
        """The most probable one."""
        return self.causes[0] if self.causes else None

    @property
    def status(self) -> int:
        """For the command line: 0 nothing wrong, 1 causes found, 2 not at rest yet, or too little read."""
        return 1 if self.causes else 0 if self.healthy else 2

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        if self._read and not self.causes:
            going = "Nothing wrong so far, not at rest yet." if self.young else NOT_AT_REST
            yield wrap(f"{'Nothing wrong.' if self.at_rest else going} {self.about}")
            told = ", ".join(name.replace("_", " ") for name in self.checked)
            yield wrap(f"{len(RULES)} rules looked at: {told}.")
        elif not self.causes:
            yield wrap(f"Too little could be read to say anything. {self.about}")
        else:
            yield wrap(self.about)
        probable = [finding for finding in self.causes if finding.probable] or list(self.causes[:1])
        for number, finding in enumerate(probable, 1):
            yield ""
            title = "Probable cause" if finding.weight >= LIKELY else "Most likely, but not certain"
            yield f"{title if number == 1 else 'And'}: {_named(finding)}"
            yield from _told(finding)
        others = [finding for finding in self.causes if finding not in probable][:MOST_LESS_LIKELY]
        for number, finding in enumerate(self.notes):
            if not number:
                yield "\nNothing of it has failed yet; but when the next task starts:"
            yield f"{'And: ' if number else ''}{_named(finding)}"
            yield from _told(finding)
        if others:
            yield "\nLess likely"
        for finding in others:
            yield wrap(f"- {_named(finding)}: {finding.cause}")
            if finding.decide:
                yield _decide("to decide", finding.decide)
        if self.unread:
            yield "\nNot read"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.unread.items():
            reasons.setdefault(reason, []).append(_asked(name))
        for reason, names in list(reasons.items())[:MOST_UNREAD]:
            yield wrap(f"- {', '.join(names)}: {reason}")


def _told(finding: Finding) -> Iterator[str]:
    yield wrap(f"  {finding.cause}")
    if finding.evidence:
        yield "  Evidence"
        yield from (wrap(f"  - {line}", "    ") for line in finding.evidence)
    if finding.fix:
        yield "  Fix"
        yield _code(finding.fix, "    ")
    if finding.decide and not finding.probable:
        yield _decide("To decide", finding.decide)


def _named(finding: Finding) -> str:
    return f"{finding.rule} ({RULES[finding.rule].layer})" if finding.rule in RULES else "not known here"


def _decide(title: str, call: str) -> str:
    if call.startswith("boto3."):
        return _code(f"{title}: {call}", "  ")
    return wrap(f"  {title}: {call}", "    ")


def _code(text: str, indent: str) -> str:
    """Not wrapped: it is to be copied."""
    return "\n".join(f"{indent}{line}" for line in text.splitlines())


def _asked(name: str) -> str:
    return ASKED.get(name, name)


def diagnose(
    cluster: str | None = None,
    service: str | None = None,
    stack: str | None = None,
    *,
    now: datetime | None = None,
    region: str | None = None,
) -> Diagnosis:
    """What is wrong with a service, and with the stack that makes it; of the only service that there is unless told.

    Asks AWS's API through boto3, where `connect` leads, and changes nothing. `cluster`, `service`: names or ARNs. `now`:
    AWS time, the connected lab's unless told. TutorialError when there are several services and none is named, and when
    no lab is connected and no region configured.
    """
    if now is None or region is None:
        when, where = _when_and_where(region)
        now, region = now or when, where
    cluster, service = _names_of(cluster, service)
    unread: dict[str, str] = {}
    if not (cluster and service):
        cluster, service, unread = _only(cluster, service, region)
    if not (cluster and service) and not stack:
        about = f"There is no service {service or ''}".rstrip() + " to look at."
        if any("Credentials" in reason for reason in unread.values()):
            about = "AWS could not be asked: no credentials were found. `aws configure` or AWS_PROFILE say which to use."
        return Diagnosis(about, unread=unread)
    evidence = gather(cluster or "", service or "", stack or service or "", now, region)
    found = judge(evidence, wanted=("service", "stack") if stack else ("service",))
    return replace(found, unread=unread | found.unread)


def judge(evidence: Evidence, wanted: tuple[str, ...] = ("service",)) -> Diagnosis:
    """What the rules make of it; `wanted` as of Diagnosis."""
    found = examine(evidence)
    # What keeps tasks from starting or from answering is no cause of anything while all of them do both.
    now = [finding for finding in found if RULES[finding.rule].though_well or not evidence.calm]
    notes = [finding for finding in found if finding not in now and finding.weight >= POSSIBLE]
    causes = [finding for finding in now if finding.weight >= POSSIBLE]
    if causes or evidence.trouble:
        causes = causes or [_unknown(evidence)]
        causes += [finding for finding in now if finding.weight < POSSIBLE]
    checked = tuple(name for name in ASKED if evidence.has(name))
    return Diagnosis(
        _about(evidence),
        tuple(causes),
        checked,
        dict(evidence.unread),
        wanted,
        evidence.at_rest,
        evidence.young,
        tuple(notes),
    )


def _unknown(e: Evidence) -> Finding:
    said = tuple(e.said(".", 4))
    lines = tuple(
        f"elbv2 describe_target_health: {(h.get('TargetHealth') or {}).get('State')}, "
        f"{(h.get('TargetHealth') or {}).get('Reason')}"
        for h in e.unwell[:2]
    )
    return Finding("AWS reports trouble that no rule here knows.", POSSIBLE, said + lines)


def _about(e: Evidence) -> str:
    status = e.one("stack").get("StackStatus")
    stack = f"; the stack {e.stack_name} is {status}" if status else ""
    if not e.service:
        return f"The service {e.service_name} in the cluster {e.cluster} was not read{stack}."
    counts = [
        f"{e.service.get('desiredCount', '?')} tasks desired, {e.service.get('runningCount', '?')} running"
    ]
    if e.has("target_health"):
        states = [(h.get("TargetHealth") or {}).get("State") for h in e.many("target_health")]
        counts.append(f"{states.count('healthy')} healthy")
    if e.gone:
        return f"The service {e.service_name} in {e.cluster} was deleted{stack}."
    rollout = e.primary.get("rolloutState")
    rest = "" if e.at_rest else f"; not at rest, its deployment is {rollout}" if rollout else "; not at rest"
    return f"The service {e.service_name} in {e.cluster}: {', '.join(counts)}{rest}{stack}."


def _when_and_where(region: str | None) -> tuple[datetime, str]:
    """AWS time and the region: of the lab that is connected, else of this machine."""
    from helpers import own_account, session

    if lab := session.connected():
        return lab.now(), region or lab.region
    return datetime.now(UTC), region or own_account.configured_region()


def _names_of(cluster: str | None, service: str | None) -> tuple[str | None, str | None]:
    """Of ARNs, too; a service's names its cluster."""
    parts = (service or "").split("/")
    if not cluster and len(parts) == 3:
        cluster = parts[1]
    return cluster and cluster.rsplit("/", 1)[-1], service and parts[-1]


def _only(
    cluster: str | None, service: str | None, region: str
) -> tuple[str | None, str | None, dict[str, str]]:
    """The only service of the only cluster, or of the named one; and what could not be read."""
    reader = Reader()
    clusters = [cluster] if cluster else _clusters(reader)
    there = [(each, name) for each in clusters[:MOST_CLUSTERS] for name in _services(reader, each)]
    unread = reader.unread | _left_out(clusters)
    found = [(each, name) for each, name in there if service in (None, name)]
    if len(found) == 1:
        return *found[0], unread
    told = ", ".join(f"{name} in {each}" for each, name in there if not found or (each, name) in found)
    if found:
        raise TutorialError("There are several services.", seen=told, next="Name one, with its cluster.")
    if there:
        unread["ecs list_clusters, list_services"] = f"there is no service {service}, but {told}"
    elif not unread:
        unread["ecs list_clusters, list_services"] = f"nothing is deployed in {region}"
    return None, service, unread


def _clusters(reader: Reader) -> list[str]:
    arns = reader.read("ecs list_clusters", lambda: items("ecs", "list_clusters", "clusterArns"))
    return [arn.rsplit("/", 1)[-1] for arn in arns or []]


def _services(reader: Reader, cluster: str) -> list[str]:
    arns = reader.read(
        f"ecs list_services ({cluster})",
        lambda: items("ecs", "list_services", "serviceArns", cluster=cluster),
    )
    return [arn.rsplit("/", 1)[-1] for arn in arns or []]


def _left_out(clusters: list[str]) -> dict[str, str]:
    """That there were too many clusters to look into each."""
    if len(clusters) <= MOST_CLUSTERS:
        return {}
    most = f"only the first {MOST_CLUSTERS} clusters were looked at; the cluster has to be named"
    return {"ecs list_services": most}
