"""The whole sandbox where tasks are containers: images pushed by Docker, a service, its tasks' ends, its own end."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from helpers import sandbox
from helpers.sandbox.ecr.distribution_container import find_image
from helpers.sandbox.ecr.distribution_program import PROGRAM
from helpers.sandbox.fargate.engine import SANDBOX, sandbox_label
from tests.sandbox.live import PAGE, Live, Visitors, get, write_app

CLUSTER = "boxes"
DOCKERFILE = """
FROM public.ecr.aws/docker/library/node:24-slim
WORKDIR /app
COPY . .
USER 1000
CMD ["node", "server.js"]
"""


@pytest.fixture(scope="module")
def live(engine, tmp_path_factory):
    if not shutil.which(PROGRAM) and not find_image(engine):
        pytest.skip(f"no registry: neither a program {PROGRAM} nor an image of it")
    state = tmp_path_factory.mktemp("containers") / "state with spaces"
    live = Live(state, runtime="container")
    live.aws("ecs").create_cluster(clusterName=CLUSTER)
    live.aws("logs").create_log_group(logGroupName=CLUSTER)
    yield live
    sandbox.stop(state)


class Shop:
    """An app's image in the sandbox's ECR, and tasks of it."""

    def __init__(self, live: Live, engine: Any, labels: dict[str, str]):
        self.live, self.engine, self.labels = live, engine, labels
        self.ecr, self.ecs = live.aws("ecr"), live.aws("ecs")
        made = self.ecr.create_repository(repositoryName="page")["repository"]
        self.uri = made["repositoryUri"]

    def push(self, app: Path, tag: str) -> str:
        """Build and push with Docker; the image's URI by digest."""
        (app / "Dockerfile").write_text(DOCKERFILE)
        name = f"{self.uri}:{tag}"
        self.engine.images.build(path=str(app), tag=name, labels=self.labels, rm=True, forcerm=True)
        token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(token).decode().partition(":")
        credentials = {"username": user, "password": password}
        told = list(self.engine.api.push(name, stream=True, decode=True, auth_config=credentials))
        (digest,) = [line["aux"]["Digest"] for line in told if "aux" in line]
        return f"{self.uri}@{digest}"

    def define(
        self, family: str, image: str, architecture: str = "", role: str = "", **container: Any
    ) -> str:
        options = {
            "awslogs-group": CLUSTER,
            "awslogs-region": "us-east-1",
            "awslogs-stream-prefix": "ecs",
        }
        made = self.ecs.register_task_definition(
            family=family,
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            executionRoleArn=role or self.live.role(),
            cpu="256",
            memory="512",
            runtimePlatform={
                "cpuArchitecture": architecture or _architecture(self.engine),
                "operatingSystemFamily": "LINUX",
            },
            containerDefinitions=[
                {
                    "name": "app",
                    "image": image,
                    "portMappings": [{"containerPort": 3000}],
                    "environment": [{"name": "PORT", "value": "3000"}],
                    "logConfiguration": {"logDriver": "awslogs", "options": options},
                    **container,
                }
            ],
        )
        return made["taskDefinition"]["taskDefinitionArn"]

    @property
    def network(self) -> dict[str, Any]:
        return {"awsvpcConfiguration": {"subnets": self.live.subnets(), "assignPublicIp": "ENABLED"}}

    def run(self, definition: str, **override: Any) -> dict[str, Any]:
        """A task run to its end: what DescribeTasks says of it."""
        overrides = {"containerOverrides": [{"name": "app", **override}]} if override else {}
        (task,) = self.ecs.run_task(
            cluster=CLUSTER,
            taskDefinition=definition,
            launchType="FARGATE",
            networkConfiguration=self.network,
            overrides=overrides,
        )["tasks"]
        return self.live.until(lambda: self.at_its_end(task["taskArn"]))

    def at_its_end(self, arn: str) -> dict[str, Any] | None:
        (task,) = self.ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"]
        return task if task["lastStatus"] == "STOPPED" else None

    def lines(self, arn: str) -> list[str]:
        events = self.live.aws("logs").get_log_events(
            logGroupName=CLUSTER, logStreamName=f"ecs/app/{arn.rsplit('/', 1)[-1]}"
        )
        return [event["message"] for event in events["events"]]

    def serve(self, definition: str, tasks: int) -> str:
        """A service behind a load balancer; its URL."""
        elb, subnets = self.live.aws("elbv2"), self.live.subnets()
        vpc = self.live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        ec2 = self.live.aws("ec2")
        # The tasks are in the VPC's default group, which lets in its members: the load balancer has to be one.
        default = {"Name": "group-name", "Values": ["default"]}
        (members,) = ec2.describe_security_groups(Filters=[default])["SecurityGroups"]
        front = ec2.create_security_group(GroupName=CLUSTER, Description="front", VpcId=vpc)["GroupId"]
        ec2.authorize_security_group_ingress(
            GroupId=front, IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0"
        )
        balancer = elb.create_load_balancer(
            Name=CLUSTER, Subnets=subnets, SecurityGroups=[front, members["GroupId"]]
        )["LoadBalancers"][0]
        group = elb.create_target_group(
            Name=CLUSTER, Protocol="HTTP", Port=3000, VpcId=vpc, TargetType="ip", HealthCheckIntervalSeconds=5
        )["TargetGroups"][0]["TargetGroupArn"]
        elb.modify_target_group_attributes(
            TargetGroupArn=group,
            Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "15"}],
        )
        elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
        )
        self.ecs.create_service(
            cluster=CLUSTER,
            serviceName="page",
            taskDefinition=definition,
            desiredCount=tasks,
            launchType="FARGATE",
            networkConfiguration=self.network,
            loadBalancers=[{"targetGroupArn": group, "containerName": "app", "containerPort": 3000}],
        )
        self.live.until(lambda: self.steady(tasks))
        found = elb.describe_load_balancers(LoadBalancerArns=[balancer["LoadBalancerArn"]])
        return f"http://{found['LoadBalancers'][0]['DNSName']}/"

    def steady(self, tasks: int) -> bool:
        (service,) = self.ecs.describe_services(cluster=CLUSTER, services=["page"])["services"]
        rolled = [deployment["rolloutState"] for deployment in service["deployments"]] == ["COMPLETED"]
        return rolled and service["runningCount"] == service["desiredCount"] == tasks


def _architecture(engine: Any) -> str:
    return {"amd64": "X86_64", "arm64": "ARM64"}[engine.version()["Arch"]]


def made_in(engine: Any, state: Path) -> list[str]:
    wanted = {"label": f"{SANDBOX}={sandbox_label(state)}"}
    containers = engine.api.containers(all=True, filters=wanted)
    return [*(c["Names"][0] for c in containers), *(n["Name"] for n in engine.api.networks(filters=wanted))]


@pytest.fixture(scope="module")
def shop(live, engine, engine_labels):
    return Shop(live, engine, engine_labels)


@pytest.fixture(scope="module")
def image(shop, tmp_path_factory):
    return shop.push(write_app(tmp_path_factory.mktemp("one") / "app", PAGE % "one"), "v1")


@pytest.fixture(scope="module")
def definition(shop, image):
    return shop.define("page", image)


def test_a_service_goes_on_answering_while_tasks_come_and_go(live, engine, shop, definition, tmp_path):
    url = shop.serve(definition, 2)
    assert get(url) == "one"
    assert sum("/ecs-page-1-app-" in name for name in made_in(engine, live.state)) == 2
    with Visitors(url) as visitors:
        arn = shop.ecs.list_tasks(cluster=CLUSTER)["taskArns"][0]
        shop.ecs.stop_task(cluster=CLUSTER, task=arn, reason="by hand")
        stopped = live.until(lambda: shop.at_its_end(arn))
        live.until(lambda: shop.steady(2))
        second = shop.push(write_app(tmp_path / "app", PAGE % "two"), "v2")
        update = {"desiredCount": 3, "taskDefinition": shop.define("page", second)}
        shop.ecs.update_service(cluster=CLUSTER, service="page", **update)
        live.until(lambda: shop.steady(3))
        assert {get(url) for _ in range(6)} == {"two"}
    assert (stopped["stopCode"], stopped["stoppedReason"]) == ("UserInitiated", "by hand")
    assert stopped["containers"][0]["exitCode"] == 0
    assert set(visitors.seen) == {"one", "two"}, visitors.seen


def test_a_task_that_ends_by_itself_leaves_its_exit_code_and_its_log(shop, definition):
    task = shop.run(definition, command=["node", "-e", "console.log('no database'); process.exit(1)"])
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["containers"][0]["exitCode"] == 1
    assert shop.live.until(lambda: shop.lines(task["taskArn"])) == ["no database"]


def test_a_task_out_of_memory_says_so(shop, definition):
    hoard = "const all = []; setInterval(() => all.push(Buffer.alloc(50e6, 1)), 1)"
    task = shop.run(definition, command=["node", "-e", hoard])
    (container,) = task["containers"]
    assert container["exitCode"] == 137
    assert container["reason"] == "OutOfMemoryError: Container killed due to memory usage"


def test_a_program_that_is_not_there_cannot_be_started(shop, image):
    task = shop.run(shop.define("typo", image, entryPoint=["nodde"], command=["server.js"]))
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith(
        "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
    )
    assert 'exec: "nodde": executable file not found in $PATH' in task["stoppedReason"]


def test_an_image_for_another_processor_ends_as_it_starts(shop, image):
    other = {"X86_64": "ARM64", "ARM64": "X86_64"}[_architecture(shop.engine)]
    task = shop.run(shop.define("other", image, architecture=other))
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["containers"][0]["exitCode"] == 1
    (line,) = shop.live.until(lambda: shop.lines(task["taskArn"]))
    assert re.fullmatch(r"exec /\S+: exec format error", line)


def test_a_role_without_permissions_starts_no_container(shop, image):
    role = shop.live.role("AmazonSQSFullAccess", name="poor")
    task = shop.run(shop.define("poor", image, role=role))
    assert "is not authorized to perform: ecr:GetAuthorizationToken on resource: *" in task["stoppedReason"]
    managed = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
    shop.live.aws("iam").attach_role_policy(RoleName="poor", PolicyArn=managed)
    task = shop.run(shop.define("poor", image, role=role))
    assert "is not authorized to perform: logs:CreateLogStream on resource: arn:" in task["stoppedReason"]


def test_an_image_that_was_deleted_cannot_be_pulled_though_the_engine_still_has_it(shop, tmp_path):
    gone = shop.push(write_app(tmp_path / "app", PAGE % "gone"), "v9")
    definition = shop.define("gone", gone)
    shop.ecr.batch_delete_image(repositoryName="page", imageIds=[{"imageDigest": gone.partition("@")[2]}])
    task = shop.run(definition)
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith("CannotPullContainerError: ")
    assert task["stoppedReason"].endswith("not found")


def test_the_app_learns_from_the_metadata_endpoint_which_task_it_is(shop, definition):
    ask = (
        "fetch(process.env.ECS_CONTAINER_METADATA_URI_V4 + '/task')"
        ".then(r => r.json()).then(t => console.log(t.TaskARN))"
    )
    task = shop.run(definition, command=["node", "-e", ask])
    assert shop.live.until(lambda: shop.lines(task["taskArn"])) == [task["taskArn"]]


def test_after_a_sigkill_nothing_is_left_in_the_engine(live, engine, shop):
    assert len(made_in(engine, live.state)) >= 2
    os.kill(live.here.pid, signal.SIGKILL)
    live.until(lambda: made_in(engine, live.state) == [])
    again = sandbox.start(live.state, speed=30, runtime="container")
    assert [name for name in made_in(engine, live.state) if not name.startswith("tutorial-")] == []
    assert sandbox.stop(live.state)
    assert made_in(engine, live.state) == []
    assert again.runtime == "container"
