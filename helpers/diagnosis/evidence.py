"""`gather`: what AWS's API says of a service and its stack, as plain dicts, and what could not be read and why.

Reads only, with boto3 alone, and asks the same on AWS as here: some forty calls, and more of many tasks or policies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from helpers.calls import client, target_groups
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.image import ECR, HOST
from helpers.diagnosis.reader import Reader, client_of, items, or_missing
from helpers.failures import balanced, failed_task

MOST_TASKS, DESCRIBED = 1000, 100  # asked about, in calls that take so many each
NEWEST = 100  # tasks that the rules look at
LAST_TASKS = 3  # whose logs are read
MOST_POLICIES = 50  # of each kind; IAM allows fewer
MOST_ALARMS = 4  # whose history is read
BEGINS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "REVIEW_IN_PROGRESS")
COUNTS = ("HTTPCode_ELB_502_Count", "HTTPCode_ELB_503_Count", "HTTPCode_ELB_504_Count")
INDEXES = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
]


def gather(cluster: str, service: str, stack: str, now: datetime, region: str) -> Evidence:
    """Everything that the rules look at; `now` is AWS time."""
    reader = Reader()
    reader.answers["now"] = now
    reader.answers["names"] = {"cluster": cluster, "service": service, "stack": stack, "region": region}
    _stack(reader, stack)
    failed = Evidence(reader.answers).stack_failed
    record = reader.read("service", lambda: _service(cluster, service, gone=failed)) or {}
    if record:
        _tasks(reader, cluster, service, record)
    if record and record["status"] == "INACTIVE":
        _definition(reader, record)  # the stack took with it what else there was
    elif record:
        _balancer(reader, record)
        _network(reader, record)
        _definition(reader, record)
        _scaling(reader, cluster, service, now)
        _metrics(reader, record, now)
    return Evidence(reader.answers, reader.unread)


def _stack(reader: Reader, stack: str) -> None:
    if not stack:
        return
    cloudformation = lambda: client("cloudformation")  # noqa: E731
    found = reader.read("stack", lambda: cloudformation().describe_stacks(StackName=stack)["Stacks"][0])
    if not found:
        return
    name = found.get("StackId") or stack
    reader.read("stack_events", lambda: list(_last_operation(name)))
    reader.read(
        "stack_resources",
        lambda: items("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=name),
    )
    reader.read("template", lambda: _text(cloudformation().get_template(StackName=name)["TemplateBody"]))


def _last_operation(stack_id: str) -> Iterator[dict]:
    """Newest first, until the event with which somebody asked for it."""
    for event in items("cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id):
        yield event
        if event.get("PhysicalResourceId") == stack_id and event.get("ResourceStatus") in BEGINS:
            return


def _text(body: Any) -> str:
    """A template of JSON, which botocore may have read already, as YAML: so the rules look into one kind of text."""
    if isinstance(body, str) and not body.lstrip().startswith("{"):
        return body
    import yaml

    read = json.loads(body if isinstance(body, str) else json.dumps(body))
    return yaml.safe_dump(read, sort_keys=False)


def _service(cluster: str, service: str, *, gone: bool) -> dict:
    """`gone`: whether a service that was deleted will do, as one is whose stack was rolled back."""
    answer = client("ecs").describe_services(cluster=cluster, services=[service])
    for record in answer["services"]:
        if gone or record["status"] != "INACTIVE":
            return record
    reason = next((failure.get("reason", "") for failure in answer.get("failures", [])), "INACTIVE")
    raise ClientError(
        {"Error": {"Code": reason, "Message": f"the cluster {cluster} has no service {service}"}},
        "DescribeServices",
    )


def _tasks(reader: Reader, cluster: str, service: str, record: dict) -> None:
    # Tasks are not listed by a service that was deleted: they are looked for among all of the cluster.
    by = {} if record["status"] == "INACTIVE" else {"serviceName": service}
    for name, status in (("running", "RUNNING"), ("stopped", "STOPPED")):
        reader.read(name, lambda status=status: _described(cluster, service, status, by))


def _described(cluster: str, service: str, status: str, by: dict[str, str]) -> list[dict]:
    arns = items("ecs", "list_tasks", "taskArns", MOST_TASKS, cluster=cluster, desiredStatus=status, **by)
    ecs = client("ecs")
    tasks = [
        task
        for first in range(0, len(arns), DESCRIBED)
        for task in ecs.describe_tasks(cluster=cluster, tasks=arns[first : first + DESCRIBED])["tasks"]
    ]
    own = tasks if by else [task for task in tasks if task.get("group") == f"service:{service}"]
    # In which order tasks are listed is not documented: of many, the newest are looked for among all.
    return sorted(own, key=lambda task: task.get("stoppedAt") or task["createdAt"])[-NEWEST:]


def _balancer(reader: Reader, record: dict) -> None:
    arns = target_groups(record)
    if not arns:
        return
    elbv2 = lambda: client("elbv2")  # noqa: E731
    groups = reader.read(
        "target_groups", lambda: elbv2().describe_target_groups(TargetGroupArns=arns)["TargetGroups"]
    )
    reader.read("target_health", lambda: [entry for arn in arns for entry in _health(arn)])
    balancers = list(
        dict.fromkeys(arn for group in groups or [] for arn in group.get("LoadBalancerArns") or [])
    )
    if not balancers:
        return
    reader.read(
        "load_balancers",
        lambda: elbv2().describe_load_balancers(LoadBalancerArns=balancers)["LoadBalancers"],
    )
    reader.read(
        "balancer_groups",
        lambda: items("elbv2", "describe_target_groups", "TargetGroups", LoadBalancerArn=balancers[0]),
    )
    reader.read("balancer_attributes", lambda: _attributes(balancers[0]))


def _health(arn: str) -> list[dict]:
    """Each entry with its group's ARN, which the answer itself does not have."""
    answer = client("elbv2").describe_target_health(TargetGroupArn=arn)
    return [{**entry, "TargetGroupArn": arn} for entry in answer["TargetHealthDescriptions"]]


def _attributes(arn: str) -> dict[str, str]:
    answer = client("elbv2").describe_load_balancer_attributes(LoadBalancerArn=arn)
    return {attribute["Key"]: attribute["Value"] for attribute in answer["Attributes"]}


def _network(reader: Reader, record: dict) -> None:
    network = (record.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    balancers = reader.answers.get("load_balancers") or []
    subnets = network.get("subnets") or []
    theirs = [
        zone["SubnetId"]
        for b in balancers
        for zone in b.get("AvailabilityZones") or []
        if zone.get("SubnetId")
    ]
    if not subnets:
        return
    ec2 = lambda: client("ec2")  # noqa: E731
    found = reader.read("subnets", lambda: ec2().describe_subnets(SubnetIds=subnets)["Subnets"])
    if theirs:
        reader.read("balancer_subnets", lambda: ec2().describe_subnets(SubnetIds=theirs)["Subnets"])
    vpc = next((subnet.get("VpcId", "") for subnet in found or []), "")
    groups = {
        *(network.get("securityGroups") or []),
        *(g for b in balancers for g in b.get("SecurityGroups") or []),
    }
    if network.get("securityGroups"):
        reader.read(
            "security_groups",
            lambda: ec2().describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"],
        )
    elif vpc:  # the VPC's default group applies
        reader.read(
            "security_groups",
            lambda: ec2().describe_security_groups(Filters=_in(vpc))["SecurityGroups"],
        )
    if vpc:
        reader.read("route_tables", lambda: ec2().describe_route_tables(Filters=_in(vpc))["RouteTables"])
        reader.read("network_acls", lambda: ec2().describe_network_acls(Filters=_in(vpc))["NetworkAcls"])
        reader.read("endpoints", lambda: ec2().describe_vpc_endpoints(Filters=_in(vpc))["VpcEndpoints"])


def _in(vpc: str) -> list[dict]:
    return [{"Name": "vpc-id", "Values": [vpc]}]


def _definition(reader: Reader, record: dict) -> None:
    """The revision that was deployed last, which after a rollback is the one that failed; its role, log and image."""
    evidence = Evidence(reader.answers)
    failed = evidence.failed_tasks
    newest = record.get("taskDefinition") or evidence.primary.get("taskDefinition")
    arn = failed[-1].get("taskDefinitionArn") if failed else newest
    found = arn and reader.read(
        "task_definition",
        lambda: client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"],
    )
    _logs(reader, failed)
    if not found:
        return
    gone = record["status"] == "INACTIVE"
    if found.get("executionRoleArn") and not gone:
        _role(reader, found["executionRoleArn"])
    container = Evidence(reader.answers).container
    options = (container.get("logConfiguration") or {}).get("options") or {}
    if options.get("awslogs-group") and not gone:
        prefix, region = options["awslogs-group"], _elsewhere(reader, options.get("awslogs-region"))
        reader.read(
            "log_groups",
            lambda: items(
                "logs", "describe_log_groups", "logGroups", region=region, logGroupNamePrefix=prefix
            ),
            elsewhere=bool(region),
        )
    parts = ECR.match(container.get("image") or "")
    if parts:
        _image(reader, parts.groupdict(), arn)


def _elsewhere(reader: Reader, region: str | None) -> str:
    """A region that is not the service's; "" for the service's."""
    return region if region and region != reader.answers["names"]["region"] else ""


def _logs(reader: Reader, failed: list[dict]) -> None:
    def lines() -> list[dict]:
        named = balanced(reader.answers.get("service") or {})
        seen = [failed_task(task, named) for task in failed[-LAST_TASKS:]]
        return [{"task": one.task, "group": one.log, "lines": list(one.lines)} for one in seen if one.log]

    if failed:
        reader.read("logs", lines)


def _role(reader: Reader, arn: str) -> None:
    name = arn.rsplit("/", 1)[-1]
    role = reader.read(
        "execution_role",
        lambda: or_missing(lambda: client("iam").get_role(RoleName=name)["Role"], "NoSuchEntity"),
    )
    if role and "missing" not in role:
        reader.read("execution_policies", lambda: list(_policies(name)))


def _policies(role: str) -> Iterator[dict]:
    iam = client("iam")
    for name in items("iam", "list_role_policies", "PolicyNames", MOST_POLICIES, RoleName=role):
        yield {
            "name": name,
            "document": iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"],
        }
    kind = ("iam", "list_attached_role_policies", "AttachedPolicies")
    for policy in items(*kind, MOST_POLICIES, RoleName=role):
        arn = policy["PolicyArn"]
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        answer = iam.get_policy_version(PolicyArn=arn, VersionId=version)
        yield {"name": policy["PolicyName"], "document": answer["PolicyVersion"]["Document"]}


def _image(reader: Reader, parts: dict[str, str | None], definition: str) -> None:
    """`definition`: the task definition's ARN, which names the service's account."""
    wanted = {"imageDigest": parts["digest"]} if parts["digest"] else {"imageTag": parts["tag"] or "latest"}
    named = {"repositoryName": parts["repository"], "imageIds": [wanted]}
    host = HOST.match(parts["registry"] or "")
    named |= {"registryId": host["account"]} if host else {}
    region = _elsewhere(reader, host and host["region"])

    def details() -> dict:
        return {"details": client_of("ecr", region).describe_images(**named)["imageDetails"]}

    own = bool(host) and f":{host['account']}:" in definition
    # What another account does not show to this one looks as if it were not there: then it was not read.
    absent = ("ImageNotFoundException", "RepositoryNotFoundException") if own else ()
    found = reader.read("image", lambda: or_missing(details, *absent), elsewhere=bool(region))
    repository = {name: value for name, value in named.items() if name != "imageIds"}
    reader.read("repository_policy", lambda: _repository_policy(repository, region), elsewhere=bool(region))
    media = [detail.get("imageManifestMediaType") for detail in (found or {}).get("details") or []]
    if set(media) & set(INDEXES):
        reader.read("image_platforms", lambda: _platforms(named, region), elsewhere=bool(region))


def _repository_policy(named: dict, region: str) -> dict:
    ask = lambda: client_of("ecr", region).get_repository_policy(**named)  # noqa: E731
    return or_missing(ask, "RepositoryPolicyNotFoundException", "RepositoryNotFoundException")


def _platforms(named: dict, region: str) -> dict:
    images = client_of("ecr", region).batch_get_image(**named, acceptedMediaTypes=INDEXES)["images"]
    manifests = [m for image in images for m in json.loads(image["imageManifest"]).get("manifests", [])]
    found = {(manifest.get("platform") or {}).get("architecture", "") for manifest in manifests}
    return {"platforms": sorted(found - {"", "unknown"})}


def _scaling(reader: Reader, cluster: str, service: str, now: datetime) -> None:
    name, resource = "application-autoscaling", f"service/{cluster}/{service}"
    by = {"ServiceNamespace": "ecs", "ResourceId": resource}
    targets = reader.read(
        "scalable_targets",
        lambda: client(name).describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=[resource])[
            "ScalableTargets"
        ],
    )
    if not targets:
        return
    policies = reader.read(
        "policies", lambda: items(name, "describe_scaling_policies", "ScalingPolicies", **by)
    )
    reader.read(
        "activities", lambda: items(name, "describe_scaling_activities", "ScalingActivities", 50, **by)
    )
    named = [a.get("AlarmName") or "" for policy in policies or [] for a in policy.get("Alarms") or []][:20]
    which = {"AlarmNames": named} if named else {"AlarmNamePrefix": f"TargetTracking-{resource}-"}
    alarms = reader.read(
        "alarms", lambda: items("cloudwatch", "describe_alarms", "MetricAlarms", 20, **which)
    )
    names = [alarm["AlarmName"] for alarm in alarms or []][:MOST_ALARMS]
    reader.read("alarm_history", lambda: [item for name in names for item in _history(name, now)])


def _history(alarm: str, now: datetime) -> list[dict]:
    return items(
        "cloudwatch",
        "describe_alarm_history",
        "AlarmHistoryItems",
        50,
        AlarmName=alarm,
        HistoryItemType="StateUpdate",
        StartDate=now - timedelta(hours=1),
        EndDate=now,
    )


def _metrics(reader: Reader, record: dict, now: datetime) -> None:
    """What the load balancer answered itself, by minute, since the last deployment was complete, an hour at most."""
    balancers = reader.answers.get("load_balancers") or []
    arn = next((b.get("LoadBalancerArn", "") for b in balancers), "")
    if not arn:
        return
    primary = Evidence(reader.answers).primary
    began = (
        primary.get("updatedAt") if primary.get("rolloutState") == "COMPLETED" else primary.get("createdAt")
    )
    start = max(filter(None, (began, now - timedelta(hours=1))))
    dimensions = [{"Name": "LoadBalancer", "Value": arn.split("loadbalancer/", 1)[-1]}]

    def counts() -> dict:
        queries = [
            {
                "Id": name.lower(),
                "Label": name,
                "MetricStat": {
                    "Metric": {
                        "Namespace": "AWS/ApplicationELB",
                        "MetricName": name,
                        "Dimensions": dimensions,
                    },
                    "Period": 60,
                    "Stat": "Sum",
                },
            }
            for name in COUNTS
        ]
        results = client("cloudwatch").get_metric_data(
            MetricDataQueries=queries, StartTime=start, EndTime=max(now, start + timedelta(minutes=1))
        )["MetricDataResults"]
        return {
            name: [
                {"time": time, "value": value}
                for result in results
                if result["Id"] == name.lower()
                for time, value in zip(result["Timestamps"], result["Values"], strict=True)
            ]
            for name in COUNTS
        }

    reader.read("metrics", counts)
