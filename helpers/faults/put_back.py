"""`put_back`: what somebody may have changed while looking for a fault, as the stack's template has it again."""

from __future__ import annotations

from helpers.errors import TutorialError
from helpers.faults.fault import Fault
from helpers.faults.health import GRACE, PATIENT
from helpers.faults.network import let_out, network_of_the_stack
from helpers.faults.place import BREAKER, Place
from helpers.faults.roles import allow_nothing_else
from helpers.faults.scaling import templated
from helpers.faults.table import FAULTS

# Whose mends put back a part each, whatever was done to it.
PARTS = (
    *("execution-role", "trust-policy", "log-group-missing", "security-group"),
    *("health-check-path", "two-policies"),
)
ROLLING = {"deploymentCircuitBreaker": BREAKER, "minimumHealthyPercent": 100, "maximumPercent": 200}
KEEPS = "grace-period"  # its mend lets the new revision come up


def put_back(place: Place, fault: Fault) -> None:
    """All that a wrong cure may have changed; the fault's own `mend` comes after it."""
    template = FAULTS["desired-count"]
    if template.lacking(place) or not _scales(place):
        template.mend(place)
    allow_nothing_else(place)
    let_out(place, {"IpProtocol": "-1"})
    for name in PARTS:
        FAULTS[name].mend(place)
    keeps = fault.name == KEEPS and not _has_failed(place)
    revision = place.service.record["taskDefinition"] if keeps else place.outputs["TaskDefinitionArn"]
    # In one call: a circuit breaker that is on before the rest is right gives up the deployment that failed so far.
    place.update(
        taskDefinition=revision,
        networkConfiguration=network_of_the_stack(place),
        healthCheckGracePeriodSeconds=PATIENT if keeps else GRACE,
        deploymentConfiguration=ROLLING,
    )


def _scales(place: Place) -> bool:
    try:
        templated(place)
    except TutorialError:
        return False
    return True


def _has_failed(place: Place) -> bool:
    """Whether the newest deployment has been given up: nothing starts its tasks again."""
    return place.service.record["deployments"][0].get("rolloutState") == "FAILED"
