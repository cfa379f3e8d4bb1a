"""Stands in for the ECS API around services and tasks: clusters and tags where they concern our records.

Differs: moto keeps clusters and task definitions; here are only the counts it cannot know, and the refusal to delete
a cluster that is in use. `operations` is everything of ECS that the sandbox answers itself.
"""

from __future__ import annotations

from typing import Any

from helpers.sandbox.ecs.placement import Placement
from helpers.sandbox.ecs.service_operations import ServiceCalls
from helpers.sandbox.ecs.services import ServiceRecords, counts
from helpers.sandbox.ecs.task_operations import TaskCalls
from helpers.sandbox.endpoint import AwsError, Call, Handler
from helpers.sandbox.records import Records


class Ecs:
    def __init__(self, records: Records, services: ServiceRecords, placement: Placement):
        self.records, self.services = records, services
        self._services = ServiceCalls(records, services, placement)
        self._tasks = TaskCalls(records, placement)

    def operations(self) -> dict[tuple[str, str], Handler]:
        own = {
            "DescribeClusters": self.describe_clusters,
            "DeleteCluster": self.delete_cluster,
            "TagResource": self.tag_resource,
            "UntagResource": self.untag_resource,
            "ListTagsForResource": self.list_tags_for_resource,
            **self._services.operations(),
            **self._tasks.operations(),
        }
        return {("ecs", operation): handler for operation, handler in own.items()}

    def describe_clusters(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        for cluster in answer.get("clusters", []):
            running, pending, active = self._in_cluster(cluster["clusterArn"])
            cluster["runningTasksCount"], cluster["pendingTasksCount"] = running, pending
            cluster["activeServicesCount"] = active
        return answer

    def delete_cluster(self, call: Call) -> dict[str, Any]:
        name = call.params["cluster"].rsplit("/", 1)[-1]
        with self.records.lock:
            inside = [s for s in self.services.values() if _is_in(s, call.region, name)]
            tasks = [t for t in self.records.tasks.values() if _is_in(t, call.region, name)]
            if any(service.status != "INACTIVE" for service in inside):
                raise AwsError(
                    "ClusterContainsServicesException",
                    "The Cluster cannot be deleted while Services are active.",
                )
            if any(task.last_status != "STOPPED" for task in tasks):
                raise AwsError(
                    "ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active."
                )
        return call.forward()

    def tag_resource(self, call: Call) -> dict[str, Any]:
        owner = self._tagged(call)
        if owner is None:
            return call.forward()
        new = call.params["tags"]
        keys = {tag["key"] for tag in new}
        with self.records.lock:
            owner.tags = [tag for tag in owner.tags if tag["key"] not in keys] + new
        return {}

    def untag_resource(self, call: Call) -> dict[str, Any]:
        owner = self._tagged(call)
        if owner is None:
            return call.forward()
        with self.records.lock:
            owner.tags = [tag for tag in owner.tags if tag["key"] not in call.params["tagKeys"]]
        return {}

    def list_tags_for_resource(self, call: Call) -> dict[str, Any]:
        owner = self._tagged(call)
        return call.forward() if owner is None else {"tags": owner.tags}

    def _tagged(self, call: Call) -> Any:
        """The service or task of ours that the call's resourceArn names; None when the resource is moto's."""
        arn = call.params["resourceArn"]
        kind = arn.split(":")[-1].split("/")[0]
        if kind not in ("service", "task"):
            return None
        owner = self.services.get(arn) or self.records.tasks.get(arn)
        if owner is None:
            raise AwsError("InvalidParameterException", f"The specified {kind} was not found.")
        return owner

    def _in_cluster(self, cluster_arn: str) -> tuple[int, int, int]:
        with self.records.lock:
            tasks = [task for task in self.records.tasks.values() if task.cluster_arn == cluster_arn]
            active = [
                s for s in self.services.values() if s.cluster_arn == cluster_arn and s.status == "ACTIVE"
            ]
            return *counts(tasks), len(active)


def _is_in(resource: Any, region: str, cluster_name: str) -> bool:
    return resource.region == region and resource.cluster_arn.rsplit("/", 1)[-1] == cluster_name
