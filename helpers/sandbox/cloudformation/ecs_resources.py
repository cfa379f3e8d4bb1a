"""Stands in for CloudFormation's handlers of ECS: cluster, task definition, service.

Differs: nothing is said of what ECS's own records differ in; see services.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from helpers.sandbox.cloudformation.handler import (
    Context,
    Handler,
    HandlerError,
    Properties,
    TimedOut,
    call,
    changed,
    if_there,
    pairs,
    renamed,
)

# AWS seconds that CloudFormation waits for a service to be steady: "~3 hours" (aws/containers-roadmap issue 1303,
# aws/aws-cdk issue 14457; C). The type's schema has allowed its handlers 36 hours since linear and canary deployments
# came (timeoutInMinutes 2160; A); whether a rolling update is given more than the three is not established (U).
STEADY_TIMEOUT = 3 * 3600
TASKS_END_WITHIN = (
    600  # AWS seconds until a cluster's last tasks have given back their network interfaces (U)
)
LONGEST_STOP = 120  # real seconds, Fargate's limit for stopTimeout: an app's own time is not AWS time here


class Cluster(Handler):
    type, service, name = "AWS::ECS::Cluster", "ecs", "ClusterName"
    acted = "ClusterName"
    recorded = "ClusterSettings Configuration CapacityProviders DefaultCapacityProviderStrategy"
    attributes = "Arn"

    def create(self, ctx: Context, p: Properties) -> str:
        ecs, name = ctx.aws("ecs"), p.get("ClusterName") or ctx.name(255)
        found = ecs.describe_clusters(clusters=[name])["clusters"]
        self.refuse_existing(any(cluster["status"] == "ACTIVE" for cluster in found), name)
        tags = pairs(self.tags(ctx.tags, p), "key", "value")
        call(ecs, "CreateCluster", renamed(p, ClusterSettings="Settings"), clusterName=name, tags=tags)
        ctx.initiated(name)
        return name

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        ecs = ctx.aws("ecs")
        if changed(old, new, "ClusterSettings", "Configuration"):
            call(ecs, "UpdateCluster", renamed(new, ClusterSettings="Settings"), cluster=physical)
        if changed(old, new, "CapacityProviders", "DefaultCapacityProviderStrategy"):
            providers = {"CapacityProviders": [], "DefaultCapacityProviderStrategy": [], **new}
            call(ecs, "PutClusterCapacityProviders", providers, cluster=physical)
        self.retag(ctx, self.describe(ctx, physical, new)["Arn"], old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ecs = ctx.aws("ecs")

        def gone() -> bool:
            try:
                ecs.delete_cluster(cluster=physical)
            except ecs.exceptions.ClusterContainsTasksException:
                return False  # a service's last tasks still give back their network interfaces
            return True

        ctx.until(gone, f"Cluster {physical}", TASKS_END_WITHIN + LONGEST_STOP * ctx.clock.speed)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"Arn": ctx.aws("ecs").describe_clusters(clusters=[physical])["clusters"][0]["clusterArn"]}


class TaskDefinition(Handler):
    type, service = "AWS::ECS::TaskDefinition", "ecs"
    acted = "Family ContainerDefinitions Cpu Memory"
    recorded = (
        "NetworkMode RequiresCompatibilities ExecutionRoleArn TaskRoleArn RuntimePlatform EphemeralStorage Volumes "
        "PidMode IpcMode EnableFaultInjection PlacementConstraints ProxyConfiguration"
    )
    attributes = "TaskDefinitionArn"

    def create(self, ctx: Context, p: Properties) -> str:
        tags = {"tags": pairs(tags, "key", "value")} if (tags := self.tags(ctx.tags, p)) else {}
        family = p.get("Family") or ctx.name(255)
        answer = call(ctx.aws("ecs"), "RegisterTaskDefinition", p, family=family, **tags)
        arn = answer["taskDefinition"]["taskDefinitionArn"]
        ctx.initiated(arn)
        return arn

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ctx.aws("ecs").deregister_task_definition(taskDefinition=physical)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"TaskDefinitionArn": physical}


class Service(Handler):
    type, service, name = "AWS::ECS::Service", "ecs", "ServiceName"
    acted = (
        "ServiceName Cluster TaskDefinition DesiredCount DeploymentConfiguration HealthCheckGracePeriodSeconds "
        "LoadBalancers NetworkConfiguration SchedulingStrategy AvailabilityZoneRebalancing ForceNewDeployment"
    )
    recorded = (
        "LaunchType CapacityProviderStrategy PlatformVersion DeploymentController EnableECSManagedTags "
        "EnableExecuteCommand PropagateTags"
    )
    attributes = "ServiceArn Name"
    reset: ClassVar[Properties] = {  # what an update sends for a property that the template no longer has
        "LoadBalancers": [],
        "HealthCheckGracePeriodSeconds": 0,
        "EnableExecuteCommand": False,
        "EnableECSManagedTags": False,
    }

    def create(self, ctx: Context, p: Properties) -> str:
        ecs, name = ctx.aws("ecs"), p.get("ServiceName") or ctx.name(255)
        count = {} if p.get("SchedulingStrategy") == "DAEMON" else {"DesiredCount": 1}
        tags = {"tags": pairs(tags, "key", "value")} if (tags := self.tags(ctx.tags, p)) else {}
        wanted = {key: value for key, value in p.items() if key not in ("Tags", "ForceNewDeployment")}
        service = call(ecs, "CreateService", {**count, **wanted}, serviceName=name, **tags)["service"]
        ctx.initiated(service["serviceArn"])
        self._wait(ctx, service)
        return service["serviceArn"]

    def update(self, ctx: Context, physical: str, old: Properties, new: Properties) -> None:
        if changed(old, new, *(new.keys() | old.keys()) - {"Tags"}):
            cluster, name = _service_id(physical)
            force = new.get("ForceNewDeployment", {})
            force_now = force.get("EnableForceNewDeployment", False) and force != old.get(
                "ForceNewDeployment"
            )
            gone = {key: value for key, value in self.reset.items() if key in old}
            if not new.get("LoadBalancers"):
                gone.pop("HealthCheckGracePeriodSeconds", None)  # ECS refuses it without a load balancer
            wanted = {
                **gone,
                **{k: v for k, v in new.items() if k not in ("Cluster", "ServiceName", "ForceNewDeployment")},
            }
            answer = call(
                ctx.aws("ecs"),
                "UpdateService",
                wanted,
                cluster=cluster,
                service=name,
                forceNewDeployment=force_now,
            )
            self._wait(ctx, answer["service"])
        self.retag(ctx, physical, old, new)

    def delete(self, ctx: Context, physical: str, p: Properties) -> None:
        ecs = ctx.aws("ecs")
        cluster, name = _service_id(physical)
        if p.get("SchedulingStrategy") != "DAEMON":
            if_there(ecs.update_service, cluster=cluster, service=name, desiredCount=0)
        ecs.delete_service(cluster=cluster, service=name, force=True)

        def gone() -> bool:
            found = ecs.describe_services(cluster=cluster, services=[name])["services"]
            return all(one["status"] == "INACTIVE" and not one["runningCount"] for one in found)

        ctx.until(gone, f"Service {physical}", STEADY_TIMEOUT)

    def describe(self, ctx: Context, physical: str, p: Properties) -> dict[str, Any]:
        return {"ServiceArn": physical, "Name": _service_id(physical)[1]}

    def _wait(self, ctx: Context, service: dict[str, Any]) -> None:
        """Until the deployment that `service` (an answer of Create- or UpdateService) shows as PRIMARY is done.

        When the circuit breaker stops it, this waits for ECS's own rollback to end and fails then, as AWS does
        (aws/containers-roadmap issue 1205).
        """
        arn = service["serviceArn"]
        cluster, name = _service_id(arn)
        (begun,) = [one for one in service["deployments"] if one["status"] == "PRIMARY"]
        failed = False

        def steady() -> bool:
            nonlocal failed
            found = ctx.aws("ecs").describe_services(cluster=cluster, services=[name])["services"]
            if not found or found[0]["status"] == "INACTIVE":
                raise HandlerError(f"Service {arn} was deleted.", "NotFound")
            deployments = found[0]["deployments"]
            (primary,) = [one for one in deployments if one["status"] == "PRIMARY"]
            ours = next((one for one in deployments if one["id"] == begun["id"]), None)
            rolled_back = primary["id"] != begun["id"] and (
                primary["taskDefinition"] != begun["taskDefinition"]
                or "circuit breaker" in primary.get("rolloutStateReason", "")
            )
            failed = failed or rolled_back or (ours is not None and ours.get("rolloutState") == "FAILED")
            done = primary.get("rolloutState") == "COMPLETED"
            if failed and (done or primary.get("rolloutState") == "FAILED"):
                raise HandlerError(
                    "Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'."
                )
            return done and len(deployments) == 1 and found[0]["runningCount"] == found[0]["desiredCount"]

        try:
            ctx.until(steady, f"Service {arn}", STEADY_TIMEOUT)
        except HandlerError as error:
            if error.code != "NotStabilized":
                raise
            raise TimedOut(str(error), error.code) from error


def _service_id(arn: str) -> tuple[str, str]:
    """(cluster, service) of a service's ARN."""
    return tuple(arn.split(":service/", 1)[1].split("/", 1))  # type: ignore[return-value]
