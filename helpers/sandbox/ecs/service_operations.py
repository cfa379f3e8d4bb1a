"""Stands in for the ECS API's operations on services: it checks a request and changes the records.

Differs: nothing is started or stopped here; the scheduler's next step does what the records then say. What the
sandbox cannot do (other deployment controllers and strategies, DAEMON) is refused with UnsupportedFeatureException.
"""

from __future__ import annotations

import re
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.ecs.placement import Definition, Placement
from helpers.sandbox.ecs.services import PLATFORM_VERSION, RECORDED, Service, ServiceRecords
from helpers.sandbox.endpoint import AwsError, Call, Handler
from helpers.sandbox.partitions import arn_of
from helpers.sandbox.records import Records

DEFAULTS = {
    "maximumPercent": 200,
    "minimumHealthyPercent": 100,
    "strategy": "ROLLING",
    "bakeTimeInMinutes": 0,
}
ROLLS = (
    "taskDefinition",
    "networkConfiguration",
    "loadBalancers",
    "platformVersion",
)  # a change deploys anew


class ServiceCalls:
    def __init__(self, records: Records, services: ServiceRecords, placement: Placement):
        self.records, self.services, self.placement = records, services, placement

    def operations(self) -> dict[str, Handler]:
        return {
            "CreateService": self.create_service,
            "UpdateService": self.update_service,
            "DeleteService": self.delete_service,
            "DescribeServices": self.describe_services,
            "ListServices": self.list_services,
        }

    def create_service(self, call: Call) -> dict[str, Any]:
        asked = call.params
        cluster = find_cluster(self.placement, call)
        name = asked["serviceName"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name):
            raise invalid(
                "Service name must have fewer than 256 letters (uppercase and lowercase), numbers, underscores, "
                "and hyphens."
            )
        _refuse_unsupported(asked)
        if "desiredCount" not in asked:
            raise invalid("desiredCount is required when the scheduling strategy is REPLICA.")
        definition = self.placement.definition(call.region, asked.get("taskDefinition", ""), fresh=True)
        launch_type = launch_type_of(asked, cluster)
        check_network(self.placement, call, definition, launch_type, asked.get("networkConfiguration"))
        balancers = asked.get("loadBalancers", [])
        self._check_balancers(call.region, balancers, definition)
        if asked.get("healthCheckGracePeriodSeconds") is not None and not balancers:
            raise invalid(_GRACE_WITHOUT_BALANCER)
        with self.records.lock:
            existing = self.services.of(call.region, cluster["clusterName"], name)
            if existing and existing.status == "DRAINING":
                raise invalid("Unable to Start a service that is still Draining.")
            if existing and existing.status == "ACTIVE":
                token = asked.get("clientToken")
                if not token or token != existing.client_token:
                    raise invalid("Creation of service was not idempotent.")
                return {"service": self._describe(existing, tags=True)}
            now = self.placement.clock.time()
            service = Service(
                arn=service_arn(call.region, cluster["clusterName"], name),
                name=name,
                region=call.region,
                cluster_arn=cluster["clusterArn"],
                created_at=now,
                desired_count=_count(asked["desiredCount"]),
                launch_type=launch_type,
                configuration=_configuration({}, asked.get("deploymentConfiguration")),
                grace=float(asked.get("healthCheckGracePeriodSeconds") or 0) if balancers else None,
                recorded={"availabilityZoneRebalancing": "ENABLED", "propagateTags": "NONE"}
                | {key: asked[key] for key in RECORDED if key in asked},
                tags=list(asked.get("tags", [])),
                client_token=asked.get("clientToken"),
            )
            version = _platform(asked.get("platformVersion"))
            service.deploy(now, definition.arn, network_of(asked), balancers, version)
            self.services[service.arn] = service
            return {"service": self._describe(service, tags=True)}

    def update_service(self, call: Call) -> dict[str, Any]:
        asked = call.params
        service = self._find(call)
        if service.status != "ACTIVE":
            raise AwsError("ServiceNotActiveException", "Service was not ACTIVE.")
        _refuse_unsupported(asked)
        primary = service.primary
        reference = asked.get("taskDefinition", primary.task_definition_arn)
        definition = self.placement.definition(call.region, reference, fresh="taskDefinition" in asked)
        network = network_of(asked) if "networkConfiguration" in asked else primary.network
        balancers = asked.get("loadBalancers", primary.load_balancers)
        version = _platform(asked.get("platformVersion", primary.platform_version))
        if any(key in asked for key in ROLLS):
            check_network(self.placement, call, definition, service.launch_type, network)
            self._check_balancers(call.region, balancers, definition)
        if asked.get("healthCheckGracePeriodSeconds") is not None and not balancers:
            raise invalid(_GRACE_WITHOUT_BALANCER)
        configuration = _configuration(service.configuration, asked.get("deploymentConfiguration"))
        count = _count(asked.get("desiredCount", service.desired_count))
        with self.records.lock:
            now = self.placement.clock.time()
            service.desired_count, service.configuration = count, configuration
            if asked.get("healthCheckGracePeriodSeconds") is not None:
                service.grace = float(asked["healthCheckGracePeriodSeconds"])
            service.recorded |= {key: asked[key] for key in RECORDED if key in asked}
            wanted = (definition.arn, network, balancers, version)
            had = (
                primary.task_definition_arn,
                primary.network,
                primary.load_balancers,
                primary.platform_version,
            )
            # A deployment that has failed is begun anew when its task definition is asked for again (U): otherwise a
            # stack whose rollback failed with it could not be brought back.
            again = "taskDefinition" in asked and primary.rollout_state == "FAILED"
            if wanted != had or again or asked.get("forceNewDeployment"):
                service.deploy(now, *wanted)
                service.grace = (service.grace or 0.0) if balancers else None
            else:
                primary.updated_at = now
            service.steady_since = None  # until the scheduler has seen the change
            return {"service": self._describe(service, tags=True)}

    def delete_service(self, call: Call) -> dict[str, Any]:
        service = self._find(call)
        with self.records.lock:
            if service.status == "INACTIVE":
                raise _not_found()
            if service.desired_count > 0 and not call.params.get("force"):
                raise invalid("The service cannot be stopped while it is scaled above 0.")
            service.status, service.desired_count, service.steady_since = "DRAINING", 0, None
            return {"service": self._describe(service, tags=True)}

    def describe_services(self, call: Call) -> dict[str, Any]:
        names = call.params["services"]
        if not names:
            raise invalid("Services cannot be empty.")
        if len(names) > 10:
            raise invalid("You may specify up to 10 services at a time.")
        cluster = find_cluster(self.placement, call)["clusterName"]
        tags = "TAGS" in call.params.get("include", [])
        found, failures = [], []
        with self.records.lock:
            for name in names:
                service = self.services.of(call.region, cluster, name)
                if service:
                    found.append(self._describe(service, tags=tags))
                else:
                    arn = name if name.startswith("arn:") else service_arn(call.region, cluster, name)
                    failures.append({"arn": arn, "reason": "MISSING"})
        return {"services": found, "failures": failures}

    def list_services(self, call: Call) -> dict[str, Any]:
        cluster = find_cluster(self.placement, call)
        with self.records.lock:
            arns = [
                service.arn
                for service in self.services.values()
                if service.cluster_arn == cluster["clusterArn"]
                and service.status == "ACTIVE"
                and call.params.get("launchType") in (None, service.launch_type)
                and call.params.get("schedulingStrategy", "REPLICA") == "REPLICA"
            ]
        return page(call, "serviceArns", arns, 10)

    def _find(self, call: Call) -> Service:
        cluster = find_cluster(self.placement, call)["clusterName"]
        service = self.services.of(call.region, cluster, call.params["service"])
        if service is None:
            raise _not_found()
        return service

    def _describe(self, service: Service, *, tags: bool) -> dict[str, Any]:
        return service.describe(self.services.tasks(service), tags=tags)

    def _check_balancers(self, region: str, balancers: list[dict[str, Any]], definition: Definition) -> None:
        containers = {c["name"]: c for c in definition.raw["containerDefinitions"]}
        for balancer in balancers:
            name, port = balancer.get("containerName", ""), balancer.get("containerPort")
            if name not in containers:
                raise invalid(f"The container {name} does not exist in the task definition.")
            if port not in definition.ports(name):
                raise invalid(f"The container {name} did not have a container port {port} defined.")
            arn = balancer.get("targetGroupArn", "")
            try:
                (group,) = self.placement.aws("elbv2", region).describe_target_groups(TargetGroupArns=[arn])[
                    "TargetGroups"
                ]
            except ClientError as error:
                raise invalid(error.response["Error"]["Message"]) from error
            if group.get("TargetType") != "ip":
                raise invalid(
                    f"The provided target group {arn} has target type {group.get('TargetType')}, which is "
                    "incompatible with the awsvpc network mode specified in the task definition."
                )
            if not group.get("LoadBalancerArns"):
                raise invalid(
                    f"The target group with targetGroupArn {arn} does not have an associated load balancer."
                )


_GRACE_WITHOUT_BALANCER = (
    "Health check grace period is only valid for services configured to use load balancers"
)


def find_cluster(placement: Placement, call: Call) -> dict[str, Any]:
    """The call's cluster in boto3's shape; AwsError as ECS has it when it is not there or inactive."""
    name = call.params.get("cluster") or "default"
    found = placement.aws("ecs", call.region).describe_clusters(clusters=[name])["clusters"]
    if not found:
        raise AwsError("ClusterNotFoundException", "Cluster not found.")
    reads = call.operation.startswith(("Describe", "List"))
    if found[0].get("status") == "INACTIVE" and not reads:
        raise AwsError("ClusterNotFoundException", "The referenced cluster was inactive.")
    return found[0]


def launch_type_of(asked: dict[str, Any], cluster: dict[str, Any]) -> str | None:
    """FARGATE, EC2 or EXTERNAL; None when a capacity provider strategy, asked for or the cluster's, decides."""
    strategy = asked.get("capacityProviderStrategy")
    if strategy and asked.get("launchType"):
        raise invalid(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try "
            "again."
        )
    strategy = strategy or ([] if asked.get("launchType") else cluster.get("defaultCapacityProviderStrategy"))
    others = [
        s["capacityProvider"] for s in strategy or [] if not s["capacityProvider"].startswith("FARGATE")
    ]
    if others:
        raise invalid(f"The specified capacity provider '{others[0]}' is not associated with the cluster.")
    return None if strategy else asked.get("launchType", "EC2")


def check_network(
    placement: Placement,
    call: Call,
    definition: Definition,
    launch_type: str | None,
    network: dict[str, Any] | None,
) -> None:
    if launch_type in (None, "FARGATE") and "FARGATE" not in definition.raw.get(
        "requiresCompatibilities", []
    ):
        raise invalid("Task definition does not support launch_type FARGATE.")
    if definition.raw.get("networkMode") == "awsvpc" or launch_type in (None, "FARGATE"):
        vpc = (network or {}).get("awsvpcConfiguration")
        if not vpc:
            raise invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
        if not vpc.get("subnets"):
            raise invalid("subnets can not be empty.")
        placement.zones(call.region, vpc["subnets"])
        if vpc.get("securityGroups"):
            _check_security_groups(placement, call.region, vpc["securityGroups"])


def _check_security_groups(placement: Placement, region: str, groups: list[str]) -> None:
    try:
        placement.aws("ec2", region).describe_security_groups(GroupIds=groups)
    except ClientError as error:
        told = error.response["Error"]
        raise invalid(
            f"Error retrieving security group information for [{', '.join(groups)}]: {told['Message']} "
            f"(ErrorCode: {told['Code']})"
        ) from error


def network_of(asked: dict[str, Any]) -> dict[str, Any]:
    vpc = {"securityGroups": [], "assignPublicIp": "DISABLED"}
    given = (asked.get("networkConfiguration") or {}).get("awsvpcConfiguration")
    return {"awsvpcConfiguration": vpc | given} if given else {}


def page(call: Call, key: str, arns: list[str], default: int) -> dict[str, Any]:
    """A page of a listing; nextToken is the place to go on from."""
    start = int(call.params.get("nextToken") or 0)
    end = start + min(100, call.params.get("maxResults") or default)
    answer: dict[str, Any] = {key: arns[start:end]}
    if end < len(arns):
        answer["nextToken"] = str(end)
    return answer


def service_arn(region: str, cluster_name: str, name: str) -> str:
    return arn_of("ecs", region, f"service/{cluster_name}/{name}")


def invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterException", message)


def _not_found() -> AwsError:
    return AwsError("ServiceNotFoundException", "Service not found.")


def _count(desired: int) -> int:
    if desired < 0:
        raise invalid("desiredCount must be 0 or more.")
    return desired


def _platform(version: str | None) -> str:
    return PLATFORM_VERSION if version in (None, "LATEST") else version


def _configuration(before: dict[str, Any], asked: dict[str, Any] | None) -> dict[str, Any]:
    """boto3's deploymentConfiguration, complete: what is not asked for stays as it was."""
    made = {
        **DEFAULTS,
        "deploymentCircuitBreaker": {"enable": False, "rollback": False},
        **before,
        **(asked or {}),
    }
    lowest, highest = made["minimumHealthyPercent"], made["maximumPercent"]
    if lowest == highest == 100:
        raise invalid(
            "Both maximumPercent and minimumHealthyPercent cannot be 100 as this will block deployments."
        )
    if not (0 <= lowest <= 100 <= highest):
        raise invalid("minimumHealthyPercent must be from 0 to 100 and maximumPercent at least 100.")
    return made


def _refuse_unsupported(asked: dict[str, Any]) -> None:
    strategy = asked.get("deploymentConfiguration", {}).get("strategy", "ROLLING")
    controller = asked.get("deploymentController", {}).get("type", "ECS")
    scheduling = asked.get("schedulingStrategy", "REPLICA")
    for what, value, supported in (
        ("deployment strategy", strategy, "ROLLING"),
        ("deployment controller", controller, "ECS"),
        ("scheduling strategy", scheduling, "REPLICA"),
    ):
        if value != supported:
            raise AwsError(
                "UnsupportedFeatureException",
                f"The sandbox does not act on the {what} {value}: use {supported}.",
            )
