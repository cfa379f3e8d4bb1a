"""The endpoint, called as a learner calls it: by boto3, over HTTP."""

from __future__ import annotations

import errno
import re
import threading
from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.endpoint import AwsError, Call, Endpoint, credential_scope, operation_name


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    endpoint.start()
    yield endpoint
    endpoint.stop()


def learner(endpoint, service, region="us-east-1"):
    return boto3.session.Session(region_name=region, aws_access_key_id="x", aws_secret_access_key="x").client(
        service, endpoint_url=endpoint.url
    )


def test_listens_on_loopback_only(endpoint):
    assert endpoint._server.socket.getsockname()[0] == "127.0.0.1"


def test_moto_answers_what_nobody_handles(endpoint):
    assert learner(endpoint, "sts").get_caller_identity()["Account"] == "123456789012"


@pytest.mark.parametrize(
    ("service", "operation", "ask", "params", "answer"),
    [
        (
            "ecs",  # the json protocol
            "ListTasks",
            lambda c: c.list_tasks(cluster="c", serviceName="s", maxResults=3)["taskArns"],
            {"cluster": "c", "serviceName": "s", "maxResults": 3},
            {"taskArns": ["arn:1", "arn:2"]},
        ),
        (
            "elbv2",  # the query protocol, with a list of structures
            "RegisterTargets",
            lambda c: (
                c.register_targets(TargetGroupArn="arn", Targets=[{"Id": "10.0.0.1", "Port": 3000}]) and []
            ),
            {"TargetGroupArn": "arn", "Targets": [{"Id": "10.0.0.1", "Port": 3000}]},
            {},
        ),
        (
            "cloudwatch",
            "DescribeAlarmHistory",
            lambda c: [
                item["Timestamp"]
                for item in c.describe_alarm_history(StartDate=datetime(2026, 11, 23, tzinfo=UTC))[
                    "AlarmHistoryItems"
                ]
            ],
            {"StartDate": datetime(2026, 11, 23, tzinfo=UTC)},
            {"AlarmHistoryItems": [{"Timestamp": datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)}]},
        ),
    ],
)
def test_a_handler_gets_and_gives_what_boto3_sends_and_receives(
    endpoint, service, operation, ask, params, answer
):
    calls: list[Call] = []
    endpoint.add({(service, operation): lambda call: calls.append(call) or answer})
    got = ask(learner(endpoint, service, "eu-west-1"))
    assert calls[0].params == params
    assert (calls[0].service, calls[0].operation, calls[0].region) == (service, operation, "eu-west-1")
    if service == "ecs":
        assert got == ["arn:1", "arn:2"]
    if service == "cloudwatch":
        assert got == [datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("service", "operation", "ask", "error"),
    [
        (
            "ecs",
            "StopTask",
            lambda c: c.stop_task(task="t"),
            AwsError("ClusterNotFoundException", "Cluster not found."),
        ),
        (
            "cloudformation",
            "DescribeStacks",
            lambda c: c.describe_stacks(StackName="x"),
            AwsError("ValidationError", "Stack with id x does not exist"),
        ),
    ],
)
def test_an_error_arrives_with_code_message_and_status(endpoint, service, operation, ask, error):
    def refuse(call):
        raise error

    endpoint.add({(service, operation): refuse})
    with pytest.raises(ClientError) as caught:
        ask(learner(endpoint, service))
    assert caught.value.response["Error"]["Code"] == error.code
    assert caught.value.response["Error"]["Message"] == error.message
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_typed_exception_of_boto3_can_be_caught(endpoint):
    def refuse(call):
        raise AwsError("ClusterNotFoundException", "Cluster not found.")

    endpoint.add({("ecs", "StopTask"): refuse})
    client = learner(endpoint, "ecs")
    with pytest.raises(client.exceptions.ClusterNotFoundException):
        client.stop_task(task="t")


def test_a_broken_handler_gives_an_answer_that_says_so(endpoint, caplog):
    endpoint.add({("ecs", "StopTask"): lambda call: {}["missing"]})
    with pytest.raises(ClientError, match="KeyError: 'missing'"):
        endpoint.client("ecs", "us-east-1").stop_task(task="t")
    assert "StopTask failed inside the sandbox" in caplog.text


def test_a_full_disk_is_told_and_not_asked_again(endpoint):
    asked: list[Call] = []

    def write(call: Call) -> dict:
        asked.append(call)
        raise OSError(errno.ENOSPC, "No space left on device")

    endpoint.add({("ecr", "CreateRepository"): write})
    with pytest.raises(ClientError, match=r"is full.*No space left on device") as caught:
        learner(endpoint, "ecr").create_repository(repositoryName="app")
    assert caught.value.response["Error"]["Code"] == "InsufficientStorage"
    assert len(asked) == 1, "boto3 would try a common server error again"


def test_it_knows_how_long_others_calls_took(endpoint):
    for _ in range(3):
        learner(endpoint, "sts").get_caller_identity()
    endpoint.client("sts", "us-east-1").get_caller_identity()
    (line,) = endpoint.timings()
    assert re.fullmatch(r"sts GetCallerIdentity: 3 calls, median [\d.]+ ms, longest [\d.]+ ms", line)


def test_what_moto_cannot_answer_is_told_in_the_services_protocol(endpoint, caplog):
    with pytest.raises(ClientError, match="cannot answer DescribeCapacityProviders") as caught:
        learner(endpoint, "ecs").describe_capacity_providers()
    assert caught.value.response["Error"]["Code"] == "NotImplemented"


def test_forward_gives_motos_answer_to_add_to(endpoint):
    def more(call):
        answer = call.forward()
        answer["clusters"][0]["runningTasksCount"] = 7
        return answer

    endpoint.add({("ecs", "DescribeClusters"): more})
    client = learner(endpoint, "ecs")
    client.create_cluster(clusterName="one")
    (cluster,) = client.describe_clusters(clusters=["one"])["clusters"]
    assert (cluster["clusterName"], cluster["runningTasksCount"]) == ("one", 7)


def test_forward_fails_as_moto_fails(endpoint):
    seen: list[AwsError] = []

    def watch(call):
        try:
            return call.forward()
        except AwsError as error:
            seen.append(error)
            raise

    endpoint.add({("ecs", "ListServices"): watch})
    with pytest.raises(ClientError, match="Cluster not found"):
        learner(endpoint, "ecs").list_services(cluster="none")
    assert seen[0].code == "ClusterNotFoundException"


def test_changes_count_successful_writes_only(endpoint):
    client = learner(endpoint, "ecs")
    client.create_cluster(clusterName="one")
    client.list_clusters()
    client.describe_clusters(clusters=["one"])
    with pytest.raises(ClientError):
        client.delete_cluster(cluster="none")
    assert endpoint.changes("ecs") == 1
    assert endpoint.changes("elbv2") == 0


def test_a_region_is_opened_once_and_before_its_first_answer(endpoint):
    opened: list[str] = []

    def open_region(region):
        endpoint.client("ec2", region).create_key_pair(
            KeyName="made-at-opening"
        )  # its own calls must get through
        opened.append(region)

    endpoint.on_region = open_region
    seen: list[int] = []
    ask = [
        threading.Thread(
            target=lambda: seen.append(
                len(learner(endpoint, "ec2", "ap-south-1").describe_key_pairs()["KeyPairs"])
            )
        )
        for _ in range(4)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join(timeout=20)
    assert opened == ["ap-south-1"]
    assert seen == [1, 1, 1, 1]


def test_only_others_requests_count_as_use(endpoint):
    endpoint.last_request = 0.0
    endpoint.client("sts", "us-east-1").get_caller_identity()
    assert endpoint.last_request == 0.0
    learner(endpoint, "sts").get_caller_identity()
    assert endpoint.last_request > 0.0


def test_two_handlers_for_one_operation_are_a_mistake(endpoint):
    endpoint.add({("ecs", "ListTasks"): dict})
    with pytest.raises(ValueError, match="ListTasks"):
        endpoint.add({("ecs", "ListTasks"): dict})


def test_a_handler_for_an_operation_that_aws_does_not_have_is_a_mistake(endpoint):
    with pytest.raises(Exception, match="ListTask"):
        endpoint.add({("ecs", "ListTask"): dict})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "AWS4-HMAC-SHA256 Credential=AK/20261123/eu-west-1/ecs/aws4_request, SignedHeaders=host",
            ("ecs", "eu-west-1"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/elasticloadbalancing/aws4_request,X=1",
            ("elbv2", "us-east-1"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/monitoring/aws4_request",
            ("cloudwatch", "us-east-1"),
        ),
        ("", ("", "us-east-1")),
        ("Basic abc", ("", "us-east-1")),
    ],
)
def test_credential_scope(header, expected):
    assert credential_scope(header) == expected


def test_operation_name():
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded; charset=utf-8"}
    assert (
        operation_name({"HTTP_X_AMZ_TARGET": "AmazonEC2ContainerServiceV20141113.ListTasks"}, b"{}")
        == "ListTasks"
    )
    assert operation_name(form, b"Version=1&Action=CreateStack&X=1") == "CreateStack"
    assert operation_name({}, b"Action=CreateStack") == ""
