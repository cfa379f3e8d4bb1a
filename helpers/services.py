"""`service`: an ECS service looked at from every side, through AWS's own calls; the same on AWS and here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from helpers import display, failures
from helpers.calls import client, pages, patience, polls, target_groups
from helpers.errors import ServiceNotSteady, TutorialError

if TYPE_CHECKING:
    from pandas import DataFrame

STEADY_WITHIN = 15.0  # AWS minutes
SCALED_WITHIN = (
    45.0  # AWS minutes: the low alarm looks at fifteen, after a cooldown of five; then tasks drain
)
EVERY = 4  # looks at the counts, one is at the stopped tasks, too
ALARMS = ("AlarmHigh", "AlarmLow")


def _now() -> datetime:
    """AWS time."""
    from helpers import session

    return session.current().now()


@dataclass(frozen=True)
class Scaling:
    """Target tracking as it is set: tasks, percent, AWS seconds."""

    minimum: int
    maximum: int
    target: float | None
    out_cooldown: int | None
    in_cooldown: int | None

    @property
    def low(self) -> float | None:
        """AlarmLow's threshold, which is observed to be 0.9 × the target."""
        return None if self.target is None else round(0.9 * self.target, 6)

    def __repr__(self) -> str:
        if self.target is None:
            return f"between {self.minimum} and {self.maximum} tasks, without a target"
        return (
            f"between {self.minimum} and {self.maximum} tasks, tracking {self.target:g} % CPU; "
            f"cooldowns {self.out_cooldown} s out, {self.in_cooldown} s in"
        )


@dataclass(frozen=True)
class Service:
    """Every attribute asks AWS again."""

    cluster: str
    name: str

    @property
    def record(self) -> dict:
        """What describe_services says."""
        answer = client("ecs").describe_services(cluster=self.cluster, services=[self.name])
        found = [record for record in answer["services"] if record["status"] != "INACTIVE"]
        if not found:
            there = pages("ecs", "list_services", "serviceArns", cluster=self.cluster)
            names = ", ".join(arn.rsplit("/", 1)[-1] for arn in there) or "none"
            raise TutorialError(
                f"The cluster {self.cluster} has no service {self.name}.",
                seen=f"services there: {names}",
                next="Run notebook 07, which makes it.",
            )
        return found[0]

    @property
    def tasks(self) -> DataFrame:
        """The tasks that should run, by zone."""
        columns = ["task", "zone", "status", "health", "started", "private ip", "revision"]
        rows = sorted(map(_task_row, self._tasks("RUNNING")), key=lambda row: (row["zone"], row["task"]))
        return _frame(rows, columns)

    @property
    def stopped(self) -> DataFrame:
        """The tasks that ended lately, and why."""
        columns = ["task", "stopped", "code", "reason", "exit code"]
        return _frame(map(_stopped_row, self._tasks("STOPPED")), columns)

    def stopped_tasks(self) -> list[dict]:
        """What describe_tasks says of those, oldest first."""
        return self._tasks("STOPPED")

    def _tasks(self, desired: str) -> list[dict]:
        arns = pages(
            "ecs",
            "list_tasks",
            "taskArns",
            cluster=self.cluster,
            serviceName=self.name,
            desiredStatus=desired,
        )
        ecs = client("ecs")
        tasks = [
            task
            for first in range(0, len(arns), 100)
            for task in ecs.describe_tasks(cluster=self.cluster, tasks=arns[first : first + 100])["tasks"]
        ]
        return sorted(tasks, key=lambda task: task["createdAt"])

    @property
    def targets(self) -> DataFrame:
        """The load balancer's view of the tasks, by zone."""
        zones = {
            _detail(task, "privateIPv4Address"): task["availabilityZone"] for task in self._tasks("RUNNING")
        }
        rows = [
            {
                "target": f"{entry['Target']['Id']}:{entry['Target'].get('Port', '')}",
                "zone": entry["Target"].get("AvailabilityZone") or zones.get(entry["Target"]["Id"], ""),
                "state": entry["TargetHealth"]["State"],
                "reason": entry["TargetHealth"].get("Reason", ""),
            }
            for entry in self._health(self.record)
        ]
        rows.sort(key=lambda row: (row["zone"], row["target"]))
        return _frame(rows, ["target", "zone", "state", "reason"])

    def _health(self, record: dict) -> list[dict]:
        elbv2 = client("elbv2")
        return [
            entry
            for arn in target_groups(record)
            for entry in elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        ]

    @property
    def events(self) -> DataFrame:
        """What the scheduler says, newest first."""
        rows = [{"time": event["createdAt"], "message": event["message"]} for event in self.record["events"]]
        return _frame(rows, ["time", "message"])

    @property
    def deployments(self) -> DataFrame:
        rows = [
            {
                "deployment": deployment["id"],
                "status": deployment["status"],
                "rollout": deployment.get("rolloutState", ""),
                "desired": deployment["desiredCount"],
                "running": deployment["runningCount"],
                "pending": deployment["pendingCount"],
                "failed": deployment.get("failedTasks", 0),
                "revision": deployment["taskDefinition"].rsplit("/", 1)[-1],
            }
            for deployment in self.record["deployments"]
        ]
        columns = ["deployment", "status", "rollout", "desired", "running", "pending", "failed", "revision"]
        return _frame(rows, columns)

    @property
    def alarms(self) -> DataFrame:
        """The two alarms that target tracking keeps for this service."""
        rows = [
            {
                "alarm": alarm_kind(alarm["AlarmName"]),
                "state": alarm["StateValue"],
                "threshold": alarm["Threshold"],
                "reason": alarm.get("StateReason", ""),
            }
            for alarm in self.alarm_records()
        ]
        return _frame(rows, ["alarm", "state", "threshold", "reason"])

    def alarm_records(self) -> list[dict]:
        """What describe_alarms says, AlarmHigh first."""
        prefix = f"TargetTracking-service/{self.cluster}/{self.name}-Alarm"
        alarms = pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix=prefix)
        return sorted(alarms, key=lambda alarm: alarm["AlarmName"])

    @property
    def resource_id(self) -> str:
        """As Application Auto Scaling names the service."""
        return f"service/{self.cluster}/{self.name}"

    @property
    def scaling(self) -> Scaling | None:
        """None before notebook 08."""
        autoscaling = client("application-autoscaling")
        found = autoscaling.describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=[self.resource_id])
        if not found["ScalableTargets"]:
            return None
        bounds = found["ScalableTargets"][0]
        policies = autoscaling.describe_scaling_policies(ServiceNamespace="ecs", ResourceId=self.resource_id)[
            "ScalingPolicies"
        ]
        tracking = next((p["TargetTrackingScalingPolicyConfiguration"] for p in policies), {})
        return Scaling(
            bounds["MinCapacity"],
            bounds["MaxCapacity"],
            tracking.get("TargetValue"),
            tracking.get("ScaleOutCooldown", 300) if tracking else None,  # 300 s is AWS's default for ECS
            tracking.get("ScaleInCooldown", 300) if tracking else None,
        )

    @property
    def balancer(self) -> dict:
        """What describe_load_balancers says of the load balancer in front."""
        groups = target_groups(self.record)
        if not groups:
            raise TutorialError(
                f"The service {self.name} is behind no load balancer.",
                next="Look at .tasks for its private addresses.",
            )
        elbv2 = client("elbv2")
        arns = elbv2.describe_target_groups(TargetGroupArns=groups[:1])["TargetGroups"][0]["LoadBalancerArns"]
        return elbv2.describe_load_balancers(LoadBalancerArns=arns[:1])["LoadBalancers"][0]

    @property
    def url(self) -> str:
        return f"http://{self.balancer['DNSName']}"

    def counts(self) -> dict[str, int]:
        """Tasks now: desired, running, and healthy behind the load balancer."""
        record = self.record
        health = [entry["TargetHealth"]["State"] for entry in self._health(record)]
        healthy = health.count("healthy") if target_groups(record) else record["runningCount"]
        return {"desired": record["desiredCount"], "running": record["runningCount"], "healthy": healthy}

    def until_steady(
        self,
        timeout: float | None = None,
        *,
        desired: int | None = None,
        without: str | None = None,
        on_failure: str = "raise",
    ) -> Service:
        """Returns when one deployment is complete and all its tasks are healthy; `timeout` in AWS minutes.

        Unless told that is STEADY_WITHIN, and SCALED_WITHIN where auto scaling has to act, but at least calls.AT_LEAST
        real seconds. `desired`: when there are so many tasks, too. `without`: when this task, by its ARN, is gone, too.
        Raises ServiceNotSteady, with the reason, when the time is over or the deployment has failed; and with the doctor's
        diagnosis when two tasks that were started meanwhile have failed in the same way, unless `on_failure` is "wait".
        """
        if timeout is None:
            timeout = patience(STEADY_WITHIN if desired is None else SCALED_WITHIN)
        witness = failures.Witness(self, since=_now()) if on_failure != "wait" else None
        for look, _ in enumerate(polls(timeout), 1):
            tasks = self._tasks(
                "RUNNING"
            )  # first: a task that is stopped leaves this list before any count changes
            record, counts = self.record, self.counts()
            if any(d.get("rolloutState") == "FAILED" for d in record["deployments"]):
                raise self._not_steady("Its deployment has failed")
            if (
                _rests(tasks, record, counts)
                and desired in (None, counts["desired"])
                and without not in {task["taskArn"] for task in tasks}
            ):
                return self
            if witness and look % EVERY == 0:
                witness.look()
                if failed := witness.repeated():
                    raise self._hopeless(failed, witness)
        raise self._not_steady(f"It was not steady after {timeout:g} AWS minutes")

    def until_alarm(self, kind: str, state: str, timeout: float = 30.0) -> None:
        """Returns when "AlarmHigh" or "AlarmLow" is in this state; `timeout` in AWS minutes."""
        seen = ""
        for _ in polls(timeout):
            states = {alarm_kind(alarm["AlarmName"]): alarm["StateValue"] for alarm in self.alarm_records()}
            if (seen := states.get(kind, "not there")) == state:
                return
        raise TutorialError(
            f"{kind} was not in {state} after {timeout:g} AWS minutes.",
            seen=f"{kind} is {seen}",
            next="Read .alarms for its reason: it says which datapoints it saw.",
        )

    def _not_steady(self, what: str) -> ServiceNotSteady:
        counts = ", ".join(f"{count} {word}" for word, count in self.counts().items())
        return ServiceNotSteady(
            f"The service {self.name} has not come to rest. {what}.",
            seen=f"{counts} tasks\n{failures.trouble(self)}",
            next="Read .stopped and .targets; mend the template, and update the stack.",
        )

    def _hopeless(self, failed: int, witness: failures.Witness) -> ServiceNotSteady:
        from helpers.diagnose import diagnose

        diagnosis = diagnose(cluster=self.cluster, service=self.name, stack=self.name)
        return ServiceNotSteady(
            f"The service {self.name} will not come to rest: {failed} tasks have failed in the same way.",
            seen=str(diagnosis) if diagnosis.causes else "\n".join(witness.tells()),
            next="Mend the cause; ECS goes on trying.",
        )

    def steady(self, *, image: str | None = None, stopped: str | None = None) -> Callable[[object], bool]:
        """For a Phase's `until`: whether one deployment is complete and all its tasks are healthy.

        `image`: and all of them run this one. `stopped`: and this task, by its ARN, has come to its end.
        """

        def holds(progress: Any) -> bool:
            tasks = self._tasks("RUNNING")  # first: see until_steady
            return (
                _rests(tasks, self.record, self.counts())
                and (image is None or {_image(task) for task in tasks} == {image})
                and (stopped is None or self._has_stopped(stopped))
            )

        return holds

    def _has_stopped(self, task_arn: str) -> bool:
        found = client("ecs").describe_tasks(cluster=self.cluster, tasks=[task_arn])["tasks"]
        return all(task["lastStatus"] == "STOPPED" for task in found)  # ECS forgets them after a while

    def settled(self, minutes: float = 5.0, *, above: int = 0) -> Callable[[object], bool]:
        """For a Phase's `until`: whether nothing has moved for so many AWS minutes, and nothing is about to.

        `above`: more tasks than so many are there; for a load that must make the service scale out, whose alarm
        takes longer to see it than five minutes. Desired unchanged, running and healthy equal to it, and AlarmHigh
        not in ALARM: with a cooldown of five minutes, five quiet minutes alone may be the pause between two steps.
        """
        calm: list[tuple[float, int]] = []  # (AWS time, desired) of the first look since which nothing moved

        def holds(progress: Any) -> bool:
            counts = self.counts()
            now, desired = progress.now.timestamp(), counts["desired"]
            if len(set(counts.values())) > 1 or desired <= above:
                calm.clear()
                return False
            if not calm or calm[0][1] != desired:
                calm[:] = [(now, desired)]
            if now - calm[0][0] < minutes * 60:
                return False
            states = {alarm_kind(a["AlarmName"]): a["StateValue"] for a in self.alarm_records()}
            return states.get("AlarmHigh") != "ALARM"

        return holds

    def at_minimum(self, minutes: float = 3.0) -> Callable[[object], bool]:
        """For a Phase's `until`: whether the tasks have been auto scaling's minimum for so many AWS minutes.

        That long, so that CloudWatch has a whole minute with so few: those that drain still run, and count.
        """
        settled = self.settled(minutes)
        # In this order: tasks that were calm at another number until a moment ago are not calm at the minimum.
        return lambda progress: self.counts()["desired"] == self.scaling.minimum and settled(progress)

    def __repr__(self) -> str:
        counts = self.counts()
        return (
            f"{self.name} in {self.cluster}: {counts['desired']} tasks desired, {counts['running']} running, "
            f"{counts['healthy']} healthy"
        )

    def _repr_html_(self) -> str:
        from html import escape

        tasks = self.tasks.drop(
            columns="health"
        )  # of containers' own checks; the load balancer's are in the first line
        return f"<p>{escape(repr(self))}</p>{display.frame(tasks)}"


def service(cluster: str, name: str) -> Service:
    """The ECS service `name` in `cluster`; TutorialError if it is not there."""
    found = Service(cluster, name)
    _ = found.record
    return found


def service_of(arn: str) -> Service | None:
    """The service that an ARN names, as CloudFormation's physical ids do; None for one without a cluster in it."""
    return Service(*arn.split("/")[1:]) if arn.count("/") == 2 else None


def _rests(tasks: list[dict], record: dict, counts: dict[str, int]) -> bool:
    """Whether nothing is on its way: one deployment, as many tasks as desired, all of them running and healthy."""
    return (
        len(record["deployments"]) == 1
        and len(set(counts.values())) == 1
        and [task["lastStatus"] for task in tasks] == ["RUNNING"] * counts["desired"]
    )


def _image(task: dict) -> str:
    return next((container.get("image", "") for container in task.get("containers", [])), "")


def alarm_kind(alarm_name: str) -> str:
    """ "AlarmHigh" or "AlarmLow", from `TargetTracking-service/…-AlarmHigh-<uuid>`."""
    return next((kind for kind in ALARMS if f"-{kind}-" in alarm_name), alarm_name)


def _task_row(task: dict) -> dict:
    return {
        "task": _short(task["taskArn"]),
        "zone": task.get("availabilityZone", ""),
        "status": task["lastStatus"],
        "health": task.get("healthStatus", "UNKNOWN"),
        "started": task.get("startedAt"),
        "private ip": _detail(task, "privateIPv4Address"),
        "revision": task["taskDefinitionArn"].rsplit("/", 1)[-1],
    }


def _stopped_row(task: dict) -> dict:
    container = next(iter(task.get("containers", [])), {})
    return {
        "task": _short(task["taskArn"]),
        "stopped": task.get("stoppedAt"),
        "code": task.get("stopCode", ""),
        "reason": container.get("reason") or task.get("stoppedReason", ""),
        "exit code": container.get("exitCode"),
    }


def _short(arn: str) -> str:
    return arn.rsplit("/", 1)[-1][:8]


def _detail(task: dict, name: str) -> str:
    details = [d for attachment in task.get("attachments", []) for d in attachment.get("details", [])]
    return next((d["value"] for d in details if d["name"] == name), "")


def _frame(rows: Any, columns: Sequence[str]) -> DataFrame:
    from pandas import DataFrame, to_datetime

    found = DataFrame(list(rows), columns=list(columns))
    for column in {"time", "started", "stopped"} & set(columns):
        found[column] = to_datetime(found[column], utc=True).dt.floor(
            "s"
        )  # boto3 answers in the machine's own zone
    return found
