"""The rules that no fault of the lab meets, on a real sandbox: each cause is really made, and read through AWS's API.

With the faults of tests/test_faults.py this is the table of rules but for what the sandbox has not: quotas, an account
without a service-linked role, secrets, other registries' limits, a container's own health check. Those rules have recorded
answers only.

What takes AWS minutes to show is begun at once, in one sandbox at a speed of 120: an AWS minute is half a real second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import sandbox
from helpers.diagnose import Diagnosis, diagnose
from helpers.diagnosis.table import RULES
from helpers.faults import FAULTS
from helpers.templates import template
from tests.sandbox.live import PAGE, Live
from tests.sandbox.served import serve
from tests.sandbox.stack_of_07 import StackOf07
from tests.test_bad_input import EXITS, environment_of
from tests.waiting import until

EAGER = (
    "HealthCheckGracePeriodSeconds: 15",
    "HealthCheckGracePeriodSeconds: 0",
)  # real time: BOOT, lifecycle.py
SLOW = """
require('node:http').createServer((request, response) => setTimeout(() => response.end('late'), 7000))
  .listen(process.env.PORT, process.env.HOST);
"""
ARN = "arn:aws:ecr:us-east-1:123456789012:repository/named"
WHERE = {"ServiceNamespace": "ecs", "ScalableDimension": "ecs:service:DesiredCount"}
SECONDS = 60.0  # real ones, until a symptom shows
ELSEWHERE = {"capacity", "service-linked-role", "secrets", "pull-limit", "container-health-check"}
pytestmark = pytest.mark.timeout(400)


@dataclass
class Place:
    """Where causes are made: the sandbox, and images of two small apps."""

    live: Live
    apps: Path

    def stack(self, name: str, step: str, *changes: tuple[str, str], code: str = PAGE % "hello") -> StackOf07:
        """A stack of this step's template with these texts exchanged, begun and not waited for."""
        made = StackOf07(self.live, name, self.apps)
        made.begin(made.image(code), self.text(step, *changes))
        return made

    @staticmethod
    def text(step: str, *changes: tuple[str, str]) -> str:
        body = template(step).body
        for old, new in (EAGER, *changes):
            assert old in body, old
            body = body.replace(old, new)
        return body

    def served(self, name: str, code: str = PAGE % "hello", **how) -> str:
        serve(self.live, name, StackOf07(self.live, name, self.apps).image(code), **how)
        return name


def unattached(place: Place) -> None:
    place.stack("unattached", "07", ("    DependsOn: Listener\n", ""))


def named_by_arn(place: Place) -> None:
    place.stack("by-arn", "08", ("service/${Cluster}/${Service.Name}", "service/${Cluster}/${Service}"))


def image_as_arn(place: Place) -> None:
    """A service whose new revision names its image by an ARN, as the article has it."""
    place.served("named")
    ecs = place.live.aws("ecs")
    ecs.update_service(
        cluster="named", service="named", taskDefinition=place.live.define("named", ARN + ":latest", 3000)
    )


def repository(place: Place) -> None:
    body = {
        "Resources": {
            "Repository": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": "kept"}}
        }
    }
    kept = StackOf07(place.live, "kept", place.apps)
    kept.since = place.live.here.now()
    kept.id = kept.formation.create_stack(StackName="kept", TemplateBody=json.dumps(body))["StackId"]
    assert kept.rest() == "CREATE_COMPLETE"
    kept.image(PAGE % "kept")
    assert kept.delete() == "DELETE_FAILED"


def rolled_back(place: Place) -> None:
    """An update that the circuit breaker took back: its tasks' reasons are the cause, and this is what became of it."""
    made = place.stack("back", "07")
    assert made.rest() == "CREATE_COMPLETE"
    made.begin(made.image(EXITS), place.text("07"), "update_stack")


def first_rolled_back(place: Place) -> None:
    """A first deployment: the service is gone with its stack, and its stopped tasks can still be read."""
    place.stack("first", "07", code=EXITS)


def scaled(place: Place, name: str, **configuration: object) -> None:
    """Target tracking on the service of that name, between 1 and 4 tasks."""
    scaling = place.live.aws("application-autoscaling")
    at = {**WHERE, "ResourceId": f"service/{name}/{name}"}
    scaling.register_scalable_target(**at, MinCapacity=1, MaxCapacity=4)
    scaling.put_scaling_policy(
        **at,
        PolicyName="tracking",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={"TargetValue": 50.0, **configuration},
    )


def no_requests(place: Place) -> None:
    """Two tasks, one would do; and requests per target have no datapoint in a minute without a request."""
    place.served("gaps", tasks=2)
    elbv2 = place.live.aws("elbv2")
    (balancer,) = elbv2.describe_load_balancers(Names=["gaps"])["LoadBalancers"]
    (group,) = elbv2.describe_target_groups(Names=["gaps"])["TargetGroups"]
    label = (
        f"{balancer['LoadBalancerArn'].split(':loadbalancer/')[1]}/{group['TargetGroupArn'].split(':')[-1]}"
    )
    metric = {"PredefinedMetricType": "ALBRequestCountPerTarget", "ResourceLabel": label}
    scaled(place, "gaps", PredefinedMetricSpecification=metric)


def deployment_goes_on(place: Place) -> None:
    """Two idle tasks, one would do; and a deployment that may neither start a task nor stop one."""
    place.served("held", tasks=2)
    ecs = place.live.aws("ecs")
    scaled(
        place,
        "held",
        PredefinedMetricSpecification={"PredefinedMetricType": "ECSServiceAverageCPUUtilization"},
    )
    ecs.update_service(
        cluster="held",
        service="held",
        forceNewDeployment=True,
        deploymentConfiguration={"minimumHealthyPercent": 100, "maximumPercent": 149},
    )


def too_slow(place: Place) -> None:
    """A new revision whose answers to the health check take seven real seconds, where five are waited for."""
    place.served("slow")
    image = StackOf07(place.live, "slow", place.apps).image(SLOW)
    definition = place.live.define("slow", image, 3000)
    place.live.aws("ecs").update_service(cluster="slow", service="slow", taskDefinition=definition)


# What is made; what the doctor says first; and what it says besides.
CAUSES: dict[str, tuple[Callable[[Place], None], str, set[str]]] = {
    "unattached": (unattached, "target-group-unattached", {"stack-stuck"}),
    "by-arn": (named_by_arn, "resource-id", {"stack-stuck"}),
    "named": (image_as_arn, "image-reference", set()),
    "kept": (repository, "repository-not-empty", set()),
    "back": (rolled_back, "app-exits", {"breaker-rolled-back"}),
    "first": (first_rolled_back, "app-exits", {"breaker-rolled-back", "stack-stuck"}),
    "gaps": (no_requests, "metric-gaps", set()),
    "held": (deployment_goes_on, "deployment-configuration", {"scale-in-held"}),
    "slow": (too_slow, "slow-answers", {"no-circuit-breaker"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    live = Live(tmp_path_factory.mktemp("table") / "sandbox", speed=120)
    with pytest.MonkeyPatch.context() as patch:
        environment_of(live, patch)
        place = Place(live, tmp_path_factory.mktemp("apps"))
        try:
            for begin, *_ in CAUSES.values():
                begin(place)
            yield place
        finally:
            sandbox.stop(live.state)


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Connected anew, since each test starts unconnected."""
    environment_of(made.live, monkeypatch)
    return made


@pytest.mark.parametrize("name", CAUSES)
def test_what_was_made_is_named_first(place, name):
    _, first, besides = CAUSES[name]

    def shown() -> bool:
        seen.append(diagnose(name, name, name))
        found = {cause.rule: cause for cause in seen[-1].causes}
        return {first, *besides} <= found.keys() and found[first].probable

    seen: list[Diagnosis] = []
    until(shown, SECONDS, lambda: str(seen[-1]), pause=0.5)
    diagnosis = seen[-1]
    print(f"{diagnosis}\n")
    assert diagnosis.causes[0].rule == first
    assert diagnosis.status == 1


def test_every_rule_is_met_live_somewhere():
    met = {rule for _, first, besides in CAUSES.values() for rule in (first, *besides)}
    assert set(RULES) - met - set(FAULTS) == ELSEWHERE
