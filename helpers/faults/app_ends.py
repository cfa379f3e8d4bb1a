"""Faults in how an app lets go: of connections that it keeps, and of itself when it is told to."""

from __future__ import annotations

from random import Random

from helpers import session
from helpers.calls import client, polls
from helpers.faults.fault import Fault
from helpers.faults.place import Place
from helpers.faults.revisions import back_to_the_stack, push_changed
from helpers.faults.visits import visit

BURST = 40  # requests; of the health check's path, which cost the tasks next to nothing
TELLING = 5  # 502s in CloudWatch that are no chance
APART = 4.0  # AWS minutes after the deployment's last task has gone: whose end costs a request is another question
METRIC = "HTTPCode_ELB_502_Count"


def _wrong_app(place: Place, changes: dict[str, str], rng: Random, **container: int) -> None:
    """A new version that comes up as it should: its fault shows later."""
    place.deploy({"image": push_changed(place, changes, rng), **container})
    place.service.until_steady()


def _closes_first(place: Place, rng: Random) -> None:
    line = "server.keepAliveTimeout = 65_000;"
    sweep = f"setInterval(() => server.closeIdleConnections(), {rng.choice((60, 80, 100))}); // saves memory"
    _wrong_app(place, {line: f"{line}\n  {sweep}"}, rng)
    for _ in polls(APART):
        pass


def _has_502(place: Place) -> bool:
    """Asked again and again, it is the load that the fault shows under."""
    visit(place.service.url + place.target_group["HealthCheckPath"], BURST)
    balancer = place.service.balancer["LoadBalancerArn"].partition("loadbalancer/")[2]
    found = client("cloudwatch").get_metric_statistics(
        Namespace="AWS/ApplicationELB",
        MetricName=METRIC,
        Dimensions=[{"Name": "LoadBalancer", "Value": balancer}],
        StartTime=place.since or place.service.record["createdAt"],
        EndTime=session.current().now(),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(point["Sum"] for point in found) >= TELLING


def _deaf(place: Place, rng: Random) -> None:
    said = rng.choice(("SIGTERM received", "stopping later", "got SIGTERM"))
    line = "setImmediate(() => server.close(() => process.exit(0)));"
    _wrong_app(place, {line: f"console.log('{said}');"}, rng, stopTimeout=rng.choice((2, 3, 4)))
    place.lose_a_task()


def _was_killed(place: Place) -> bool:
    return place.ended_with(137)


def _is_another(place: Place) -> list[str]:
    """The wrong image's tag tells it."""
    image = place.revision["containerDefinitions"][0]["image"]
    digest = image.partition("@")[2]
    if not digest:
        return []
    details = client("ecr").describe_images(repositoryName=place.name, imageIds=[{"imageDigest": digest}])
    tags = details["imageDetails"][0].get("imageTags", [])
    return [f"the service still runs {tag}" for tag in tags if tag.startswith("hotfix-")]


FAULTS = (
    Fault(
        "keep-alive",
        "app",
        "Since the last version some visitors get 502 Bad Gateway, the more the busier it is. All tasks are healthy, and the "
        "app's log has no error.",
        (
            "Who answers with 502, the app or the load balancer? Compare HTTPCode_ELB_502_Count with "
            "HTTPCode_Target_5XX_Count in CloudWatch, and look for the status in the app's log.",
            "The load balancer keeps its connections to the app open, to use them again, for as long as its idle timeout "
            "says (describe_load_balancer_attributes). It answers 502 when the app closes one that is just being used. "
            "What does this version do with connections that rest, and which image does the service run?",
            "The new version closes every connection that rests, long before the load balancer's idle timeout. Until the "
            "app is mended, go back to the stack's revision with update_service, and switch the circuit breaker on again.",
        ),
        _closes_first,
        _has_502,
        back_to_the_stack,
        _is_another,
    ),
    Fault(
        "sigterm-lost",
        "app",
        "Since the last version stopping a task takes longer than it did, and now and then somebody loses an order in it.",
        (
            "Look at how the tasks ended that ECS stopped itself: describe_tasks, the container's exitCode.",
            "137 is 128 + 9, SIGKILL: ECS sent SIGTERM, waited for stopTimeout, and killed it. What does the app write to "
            "its log when SIGTERM comes, and what does it do?",
            "The new version hears SIGTERM and does not end, so that what it was answering is cut off. Until the app is "
            "mended, go back to the stack's revision with update_service, and switch the circuit breaker on again.",
        ),
        _deaf,
        _was_killed,
        back_to_the_stack,
        _is_another,
    ),
)
