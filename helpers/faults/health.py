"""Faults in how the load balancer asks whether a task is well."""

from __future__ import annotations

from random import Random

from helpers.calls import client
from helpers.faults.fault import Fault
from helpers.faults.place import Place
from helpers.faults.revisions import push_changed

GRACE = 15  # real seconds; the template's
PATIENT = 30  # real seconds: more than SLOW
SLOW = (11, 12, 13)  # real seconds: longer than the sandbox forgives any start, less than GRACE and that


def _group(place: Place) -> str:
    return place.resource("TargetGroup")


def _wrong_path(place: Place, rng: Random) -> None:
    path = rng.choice(("/health", "/healthz", "/ping", "/status", "/healthchek", "/api/health"))
    client("elbv2").modify_target_group(TargetGroupArn=_group(place), HealthCheckPath=path)


def _right_check(place: Place) -> None:
    """The path that the stack was given, on the port of the traffic; the rest as the template has it."""
    stack = client("cloudformation").describe_stacks(StackName=place.name)["Stacks"][0]
    given = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]}
    client("elbv2").modify_target_group(
        TargetGroupArn=_group(place),
        HealthCheckPath=given["HealthCheckPath"],
        HealthCheckPort="traffic-port",
        HealthCheckIntervalSeconds=30,
        HealthCheckTimeoutSeconds=5,
        HealthyThresholdCount=2,
        UnhealthyThresholdCount=2,
        Matcher={"HttpCode": "200"},
    )


def _wrong_port(place: Place, rng: Random) -> None:
    port = str(rng.choice((80, 3001, 8080, 8081, 9000)))
    client("elbv2").modify_target_group(TargetGroupArn=_group(place), HealthCheckPort=port)


def _impatient(place: Place, rng: Random) -> None:
    line = "async function main() {\n"
    seconds = rng.choice(SLOW)
    warm = f"  await new Promise((ready) => setTimeout(ready, {seconds}_000)); // loads the price list\n"
    image = push_changed(place, {line: line + warm}, rng)
    place.deploy({"image": image})
    place.update(healthCheckGracePeriodSeconds=rng.choice((0, 1, 2)))


def _patient(place: Place) -> None:
    """Longer than this version takes to start; and the circuit breaker on again, as the template has it."""
    client("ecs").update_service(
        cluster=place.name,
        service=place.name,
        healthCheckGracePeriodSeconds=30,
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": True}},
    )


def _too_short(place: Place) -> list[str]:
    now = place.service.record.get("healthCheckGracePeriodSeconds", 0)
    return [f"the grace period is {now} s, the template's is {GRACE} s"] if now < GRACE else []


_CHURN = "The service loses its tasks one after the other, though each of them answers its visitors. Nothing was deployed."
_REASON = (
    "Ask the load balancer first: describe_target_health. Its reason and description say what it got for an answer; "
    "the service's events say it, too."
)

FAULTS = (
    Fault(
        "health-check-path",
        "health check",
        _CHURN,
        (
            _REASON,
            "The app answers, with another status than 200. Which path does the load balancer ask for "
            "(describe_target_groups), and which one does the app have?",
            "HealthCheckPath of the target group is not the app's. Set it with modify_target_group to the path that the "
            "stack's parameter HealthCheckPath says.",
        ),
        _wrong_path,
        Place.health_failed,
        _right_check,
    ),
    Fault(
        "health-check-port",
        "health check",
        _CHURN,
        (
            _REASON,
            "Nobody answers the health check, while visitors are answered. Which port does each use? "
            "describe_target_groups says HealthCheckPort.",
            "HealthCheckPort of the target group is a port on which nothing listens. Set it back to traffic-port with "
            "modify_target_group.",
        ),
        _wrong_port,
        Place.health_failed,
        _right_check,
    ),
    Fault(
        "grace-period",
        "health check",
        "A new version is being brought out, and the deployment does not end. Its tasks start, and are gone again.",
        (
            "Read the stopped tasks: who stopped them, and how long after startedAt? Did the app crash, or was it not "
            "asked to go?",
            "A task that fails its health checks is stopped once the grace period is over. Compare "
            "healthCheckGracePeriodSeconds (describe_services) with the time that this version needs until it writes "
            "that it listens.",
            "This version takes more than ten seconds to start, and the grace period is shorter than that. Set "
            "healthCheckGracePeriodSeconds to 30 with update_service, and switch the circuit breaker on again.",
        ),
        _impatient,
        Place.health_failed,
        _patient,
        _too_short,
    ),
)
