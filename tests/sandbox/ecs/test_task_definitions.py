from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.diagnosis import fargate
from helpers.sandbox.ecs.task_definitions import SIZES, operations, valid_fargate_size
from helpers.sandbox.endpoint import AwsError, Call

register = operations()["ecs", "RegisterTaskDefinition"]


def call(**params: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"cpu": "256", "memory": "512", "networkMode": "awsvpc"}
    given |= {"requiresCompatibilities": ["FARGATE"], **params}
    given = {name: value for name, value in given.items() if value is not None}
    return register(
        Call("ecs", "RegisterTaskDefinition", "us-east-1", given, lambda: {"taskDefinition": given})
    )


@pytest.mark.parametrize(
    ("cpu", "memory"),  # smallest and largest of each row of "Task CPU and memory" in the ECS Developer Guide
    [
        (256, 512), (256, 2048), (512, 1024), (512, 4096), (1024, 2048), (1024, 8192), (2048, 4096), (2048, 16384),
        (4096, 8192), (4096, 30720), (8192, 16384), (8192, 61440), (16384, 32768), (16384, 122880),
    ],
)  # fmt: skip
def test_sizes_that_exist(cpu: int, memory: int) -> None:
    assert valid_fargate_size(cpu, memory)


@pytest.mark.parametrize(
    ("cpu", "memory"),
    [(256, 4096), (512, 512), (300, 1024), (2048, 5000), (8192, 17408), (16384, 36864), (0, 0)],
)
def test_sizes_that_do_not(cpu: int, memory: int) -> None:
    assert not valid_fargate_size(cpu, memory)


@given(st.sampled_from([256, 512, 1024, 2048, 4096, 8192, 16384]), st.integers(1, 130_000))
def test_every_size_has_two_to_eight_gb_for_a_vcpu(cpu: int, memory: int) -> None:
    if valid_fargate_size(cpu, memory):
        assert 2 * cpu <= memory <= 8 * cpu


def test_the_doctor_knows_the_same_sizes() -> None:
    """It has a table of its own on purpose: it works without the sandbox."""
    doctors = {cpu: {*range(least, most + 1, step)} for cpu, (least, most, step) in fargate.SIZES.items()}
    doctors[256].remove(1536)  # on the way from 512 to 2048, but no size
    assert doctors == {cpu: set(memory) for cpu, memory in SIZES.items()}


def test_the_next_size_that_the_doctor_names_exists() -> None:
    sizes = [(cpu, memory) for cpu in SIZES for memory in SIZES[cpu]]
    named = {size: fargate.next_size(*size) for size in sizes}
    assert [size for size in sizes if named[size] is None] == [max(sizes)]
    assert {larger for larger in named.values() if larger} <= set(sizes)


@pytest.mark.parametrize("registry", ["123456789012.dkr.ecr.us-east-1.amazonaws.com", "127.0.0.1:40001"])
def test_an_image_in_ecr_needs_a_role_to_pull_it_with(registry: str) -> None:
    images = [{"name": "app", "image": f"{registry}/app@sha256:0"}]
    with pytest.raises(AwsError, match="execution role ARN to support ECR images"):
        call(containerDefinitions=images)
    assert call(containerDefinitions=images, executionRoleArn="arn:aws:iam::123456789012:role/r")
    assert call(containerDefinitions=[{"name": "app", "image": "public.ecr.aws/docker/library/node:24"}])


def test_a_role_has_the_form_of_one() -> None:
    for role in ("arn:aws:iam::123456789012:role/path/r", "arn:aws:iam::123456789012:role/r", "short-name"):
        assert call(executionRoleArn=role, taskRoleArn=role)
    for role in (
        "arn:aws:ecs:us-east-1:123456789012:cluster/lab",
        "arn:aws:iam::123456789012:user/u",
        "${Role}",
    ):
        for name in ("executionRoleArn", "taskRoleArn"):
            with pytest.raises(AwsError, match="Role is not valid"):
                call(**{name: role})


def test_a_log_driver_needs_a_group() -> None:
    container = {"name": "app", "image": "node", "logConfiguration": {"logDriver": "awslogs", "options": {}}}
    with pytest.raises(AwsError, match="Log driver awslogs requires options: awslogs-group"):
        call(containerDefinitions=[container])


@pytest.mark.parametrize(
    "size", [{}, {"cpu": ".25 vCPU", "memory": "0.5 GB"}, {"cpu": "1 vcpu", "memory": "2GB"}]
)
def test_a_valid_definition_is_registered(size: dict[str, str]) -> None:
    assert call(**size)["taskDefinition"]["networkMode"] == "awsvpc"


def test_other_launch_types_are_not_checked() -> None:
    assert call(requiresCompatibilities=["EC2"], cpu=None, networkMode="bridge")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cpu": None}, "Fargate requires that 'cpu' be defined at the task level."),
        ({"memory": None}, "Fargate requires that 'memory' be defined at the task level."),
        ({"networkMode": None}, "Fargate only supports network mode ‘awsvpc’."),
        ({"networkMode": "bridge"}, "Fargate only supports network mode ‘awsvpc’."),
        ({"cpu": "a lot"}, "Invalid 'cpu' setting for task."),
        (
            {"memory": "4096"},
            "No Fargate configuration exists for given values: 256 CPU, 4096 memory. "
            "See the Amazon ECS documentation for the valid values.",
        ),
    ],
)
def test_what_fargate_cannot_run_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(AwsError) as refused:
        call(**params)
    assert (refused.value.code, refused.value.message) == ("ClientException", message)
