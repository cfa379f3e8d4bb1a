"""`bench` of one sandbox: its first answer, catching up, its own CPU with two tasks, its load balancer."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from helpers import connection, session, this_machine
from helpers.errors import TutorialError
from helpers.machine_facts import cores

if TYPE_CHECKING:
    from helpers.connection import Lab
    from helpers.images import Image
    from helpers.services import Service

Say = Callable[[str], None]
# attempt(name, part): what a part found; nothing when it could not be measured, and then that is noted under the name.
Attempt = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]

APP = "sample-app"
NAME = (
    "course-bench"  # the lab's; every image of this name goes when a part is over, so it must be no learner's
)
LARGE = (2048, 4096)  # CPU units and MiB: more than one Node.js process can use
MANAGED = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
CONNECTIONS = 16
ROUNDS, ROUND, WARM_UP = 5, 2.0, 2.0  # rounds on each side; real seconds of one
CALM, IDLE = 5.0, 20.0  # real seconds before the sandbox's own CPU is read, and between the two readings
GENERATOR = Path(__file__).with_name("closed_loop.js")
OWN = ("host.py", "envoy", "docker-registry")  # the programs that a sandbox runs beside its tasks


@contextmanager
def own_sandbox(runtime: str = "auto") -> Iterator[Lab]:
    """A lab in a private sandbox. Afterwards neither that nor what was built in it is there."""
    try:
        with session.private("bench-"):
            yield connection.connect(name=NAME, runtime=runtime)
    finally:
        remove_images()


def remove_images() -> None:
    """Take what was built for NAME out of the engine, if there is one; a killed bench may have left something, too."""
    from helpers import builds

    with suppress(TutorialError):  # no engine
        builds.remove_all(NAME)


def alone(say: Say, attempt: Attempt) -> dict[str, Any]:
    """A sandbox from nothing, with what its tasks run as unless told."""
    import boto3

    began = time.monotonic()
    with own_sandbox() as lab:
        boto3.client("sts").get_caller_identity()
        measured: dict[str, Any] = {
            "runtime": lab.runtime,
            "first_answer_seconds": round(time.monotonic() - began, 2),
        }
        say(f"One sandbox, whose tasks are {what_tasks_are(lab.runtime)}:")
        say(f"first answer after a start: {measured['first_answer_seconds']:.2f} s")
        measured |= attempt("catching up", lambda: _catch_up(lab, say))
        measured |= attempt("idle", lambda: _idle(lab, say))
        measured |= attempt("the load balancer", lambda: _balancer(say))
    return measured


def what_tasks_are(runtime: str) -> str:
    return "containers" if runtime == "container" else "processes"


def _catch_up(lab: Lab, say: Say) -> dict[str, Any]:
    began = time.monotonic()
    lab.catch_up(through="07", app_dir=APP)
    seconds = round(time.monotonic() - began, 1)
    say(f"catch_up(through='07') from nothing: {seconds:.1f} s")
    return {"catch_up_seconds": seconds}


def _idle(lab: Lab, say: Say) -> dict[str, Any]:
    from helpers.services import service

    tasks = service(NAME, NAME).counts()["running"]
    time.sleep(CALM)
    used = idle(lab.running.pid, IDLE)
    say(f"idle with {tasks} tasks, in percent of a core: {_percents(used)}")
    return {"idle": used | {"tasks": tasks}}


def _balancer(say: Say) -> dict[str, Any]:
    found = balancer()
    say(
        f"answers a second: {found['balancer_per_second']:,} through the balancer, {found['direct_per_second']:,} direct, "
        f"a share of {found['share']:.2f}; {found['failed']} failed"
    )
    return {"balancer": found}


# --- its own CPU ------------------------------------------------------------------------------------------------------


def idle(region: int, seconds: float) -> dict[str, float]:
    """The CPU that the sandbox's own processes use, without its tasks: percent of one core over so many seconds."""
    parts = own_processes(psutil.Process(region))
    before = {name: _cpu(process) for name, process in parts.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    used = {name: 100 * (_cpu(process) - before[name]) / took for name, process in parts.items()}
    return {name: round(percent, 2) for name, percent in (used | {"total": sum(used.values())}).items()}


def own_processes(region: psutil.Process) -> dict[str, psutil.Process]:
    """By name. A registry that is a container is the engine's process, and is not among them."""
    own = {"region": region}
    for child in region.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # some only tell their version, and are gone
            words = [child.name(), *child.cmdline()]
            for program in OWN:
                if any(word.endswith(program) for word in words):
                    own[program.removesuffix(".py")] = child
                    break
    return own


def _cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


def _percents(used: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent:.1f}" for name, percent in used.items())


# --- its load balancer ------------------------------------------------------------------------------------------------


def balancer() -> dict[str, Any]:
    """Answers a second through the load balancer and from one task of the same app without it, in turns."""
    from helpers.images import build_image

    image = build_image(APP, "fast")
    with _direct(image) as direct:
        behind, through = serve(f"{NAME}-fast", image, *LARGE, environment={"WORK_MS": "0"})
        behind.until_steady()
        node = str(this_machine.find_node().path)
        sides = {"direct": direct, "balancer": through}
        for address in sides.values():
            closed_loop(node, address, WARM_UP)
        rounds = [
            {side: closed_loop(node, address, ROUND) for side, address in sides.items()}
            for _ in range(ROUNDS)
        ]
    return shares(rounds)


@contextmanager
def _direct(image: Image) -> Iterator[tuple[str, int]]:
    """The address of the app as a task has it, a container or a process, with nothing of ECS in front."""
    from helpers.app_directory import start_command
    from helpers.builds import DockerImage
    from helpers.containers import start_container, wait_until_it_answers

    units, memory = LARGE
    environment = {"WORK_MS": "0", "NODE_ENV": "production"}
    if isinstance(image, DockerImage):
        container = start_container(image, min(units / 1024, cores()), memory, environment=environment)
        try:
            wait_until_it_answers(container)
            host, _, port = container.url.removeprefix("http://").partition(":")
            yield host, int(port)
        finally:
            container.kill()
    else:
        app, command = start_command(APP)
        process = this_machine.run_process(
            app, command, vcpu=units / 1024, memory=memory, environment=environment
        )
        try:
            yield process.address
        finally:
            process.kill()
            process.poll()


def shares(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Of rounds {side: {answered, failed, seconds}}: answers a second as medians, and the median of their ratios."""
    rates = [{side: one["answered"] / one["seconds"] for side, one in turn.items()} for turn in rounds]
    return {
        "connections": CONNECTIONS,
        "direct_per_second": round(median(rate["direct"] for rate in rates)),
        "balancer_per_second": round(median(rate["balancer"] for rate in rates)),
        "share": round(median(rate["balancer"] / rate["direct"] for rate in rates), 2),
        "failed": int(sum(one["failed"] for turn in rounds for one in turn.values())),
    }


def closed_loop(node: str, address: tuple[str, int], seconds: float) -> dict[str, float]:
    """{answered, failed, seconds} of CONNECTIONS that ask again as soon as they have their answer."""
    host, port = address
    command = [node, str(GENERATOR), host, str(port), str(CONNECTIONS), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode:
        raise TutorialError("The requests could not be made.", seen=done.stderr.strip()[-500:])
    return json.loads(done.stdout)


def serve(
    name: str,
    image: Image,
    cpu: int,
    memory: int,
    *,
    tasks: int = 1,
    environment: dict[str, str] | None = None,
) -> tuple[Service, tuple[str, int]]:
    """A service of the app in a cluster of its own, behind a load balancer of its own: and that one's address. Nobody has
    waited for its tasks yet. `cpu` in CPU units, `memory` in MiB."""
    import boto3

    from helpers.builds import ARCHITECTURES
    from helpers.images import push_image
    from helpers.services import Service

    ecr, ecs, elbv2, ec2 = (boto3.client(each) for each in ("ecr", "ecs", "elbv2", "ec2"))
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    uri = ecr.create_repository(repositoryName=name)["repository"]["repositoryUri"]
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    open_to_all = _security_group(ec2, vpc, name)
    front = elbv2.create_load_balancer(Name=name, Subnets=subnets, SecurityGroups=[open_to_all])
    front = front["LoadBalancers"][0]
    group = elbv2.create_target_group(
        Name=name,
        Protocol="HTTP",
        Port=3000,
        TargetType="ip",
        VpcId=vpc,
        HealthCheckPath="/healthcheck",
        HealthyThresholdCount=2,
    )["TargetGroups"][0]["TargetGroupArn"]
    elbv2.modify_target_group_attributes(
        TargetGroupArn=group,
        Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}],
    )
    elbv2.create_listener(
        LoadBalancerArn=front["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    ecs.create_cluster(clusterName=name)
    words = {there: word for word, there in ARCHITECTURES.items()}
    ecs.register_task_definition(
        family=name,
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        executionRoleArn=_role(name),
        cpu=str(cpu),
        memory=str(memory),
        runtimePlatform={"cpuArchitecture": words[getattr(image, "architecture", "amd64")]},
        containerDefinitions=[
            {
                "name": "app",
                "image": push_image(image, uri),
                "essential": True,
                "portMappings": [{"containerPort": 3000}],
                "environment": [{"name": key, "value": value} for key, value in (environment or {}).items()],
            }
        ],
    )
    ecs.create_service(
        cluster=name,
        serviceName=name,
        taskDefinition=name,
        desiredCount=tasks,
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": subnets,
                "securityGroups": [open_to_all],
                "assignPublicIp": "ENABLED",
            }
        },
        loadBalancers=[{"targetGroupArn": group, "containerName": "app", "containerPort": 3000}],
    )
    host, _, port = front["DNSName"].partition(":")
    return Service(name, name), (host, int(port))


def _security_group(ec2: Any, vpc: str, name: str) -> str:
    """The id of a group that lets clients in to the load balancer, and the load balancer to the tasks."""
    group = ec2.create_security_group(GroupName=name, Description="bench", VpcId=vpc)["GroupId"]
    for port in (80, 3000):
        ec2.authorize_security_group_ingress(
            GroupId=group, IpProtocol="tcp", FromPort=port, ToPort=port, CidrIp="0.0.0.0/0"
        )
    return group


def _role(name: str) -> str:
    """The ARN of an execution role with what a task needs to start."""
    import boto3

    iam = boto3.client("iam")
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "ecs-tasks.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    iam.attach_role_policy(RoleName=name, PolicyArn=MANAGED)
    return iam.get_role(RoleName=name)["Role"]["Arn"]
