"""Stands in for the ECS agent, the load balancer's reports and CloudWatch's pipeline: what was really used and served.

Differs: a task leaves one CPU and one memory sample a minute (AWS's agent takes several and does not say how many). It
counts from its first healthy answer, since Node's start costs the same real seconds here as there, and an AWS minute
here is two real seconds. A task that stops leaves no sample for its last minute. All datapoints of a minute become
readable together, `PUBLICATION_DELAY` after its end.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from helpers.sandbox.clock import Clock
from helpers.sandbox.cloudwatch.metric_store import STATISTICS, prune
from helpers.sandbox.elb.access_log import Request
from helpers.sandbox.endpoint import Aws, Call, Handler
from helpers.sandbox.records import Records, Task

log = logging.getLogger("sandbox.meter")

MINUTE = 60.0  # AWS seconds, as are all of these
# From a minute's end until its datapoints can be read. AWS publishes no figure. Chosen so that, with three datapoints
# and the second of the minute at which alarms are evaluated, a load step's first scale-out comes 313–372 s later, around
# the 363 s of AWS's own benchmark (June 2026).
PUBLICATION_DELAY = 150.0
SHORTEST_PART = 15.0  # of a task's first minute; a rate over less tells of the moment, not of the task
HOSTS_COUNTED_EVERY = 10.0
KEPT = 6 * 3600.0  # CloudWatch keeps 60-second datapoints for 15 days; nobody reads them back here
PRUNED_EVERY = 3600.0

VALUES_IN_A_DATUM, DATUMS_IN_A_CALL = 150, 1000  # PutMetricData's limits
UNITS = {"CPUUtilization": "Percent", "MemoryUtilization": "Percent", "TargetResponseTime": "Seconds"}

Datum = dict[str, Any]


class TargetHealth(Protocol):
    state: str


@dataclass(frozen=True)
class Reading:
    """A task's counters: CPU seconds and the real moment (in real seconds) at which they were read, and bytes."""

    at: float
    cpu: float
    memory: int


class Meter:
    """`requests()` gives the balancer's requests since it was asked last; `health(target group ARN)` its targets."""

    def __init__(
        self,
        clock: Clock,
        records: Records,
        aws: Aws,
        changes: Callable[[str], int],
        requests: Callable[[], Iterable[Request]],
        health: Callable[[str], dict[tuple[str, int], TargetHealth]],
    ):
        self.clock, self.records, self.aws, self.changes = clock, records, aws, changes
        self.requests, self.health = requests, health
        now = clock.time()
        self._minute = int(now // MINUTE)  # the one that is being measured
        self._readings: dict[str, Reading] = {}  # by task ARN, from the minute's start
        self._held: dict[str, float] = {}  # CPU seconds by task ARN, from the beginning of a pause
        self._used: dict[int, list[tuple[str, Datum]]] = defaultdict(list)  # by minute: (region, sample)
        self._served: dict[int, list[Request]] = defaultdict(list)
        self._hosts: dict[int, dict[tuple[str, str], list[tuple[int, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._target_groups: dict[str, tuple[int, list[tuple[str, str]]]] = {}
        self._hosts_due, self._prune_due = now, now + PRUNED_EVERY

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {("cloudwatch", "GetMetricStatistics"): self.get_metric_statistics}

    def step(self) -> None:
        now = self.clock.time()
        if now >= (self._minute + 1) * MINUTE:
            # First of all, so that the readings are as close to the minute's end as can be.
            self._measure(int(now // MINUTE))
        for task in self.records.running():
            if task.counted_from is not None and task.arn not in self._readings:
                self._read(task)
        self.take_in()
        if now >= self._hosts_due:
            self._hosts_due = now + HOSTS_COUNTED_EVERY
            self._count_hosts(int(now // MINUTE))
        self._publish(now)
        if now >= self._prune_due:
            self._prune_due = now + PRUNED_EVERY
            log.info("%d samples older than %.0f AWS hours removed", prune(now - KEPT), KEPT / 3600)

    def take_in(self) -> None:
        """Fetch the requests served since the last time; also while time stands still, or the balancer's log fills up."""
        for request in self.requests():
            if request.counted:
                self._served[int(request.time // MINUTE)].append(request)

    def hold(self) -> None:
        """AWS time has just come to a stand: what tasks use from now on does not count."""
        self._held = dict(self._used_by(self._readings))

    def go_on(self) -> None:
        """AWS time is about to pass again."""
        held, self._held = self._held, {}
        for arn, cpu in self._used_by(held):
            reading = self._readings[arn]
            self._readings[arn] = replace(reading, cpu=reading.cpu + max(0.0, cpu - held[arn]))

    def _used_by(self, arns: Iterable[str]) -> Iterator[tuple[str, float]]:
        """The CPU seconds of those tasks that still run."""
        with self.records.lock:
            processes = {arn: self.records.tasks[arn].process for arn in arns if arn in self.records.tasks}
        for arn, process in processes.items():
            if process is not None and process.poll() is None:
                yield arn, process.cpu_seconds()

    def _read(self, task: Task) -> Reading | None:
        """Read a task's counters, and measure it from here on; None for one that has ended, which the scheduler will see."""
        process = task.process
        if process is None or process.poll() is not None:
            return None
        reading = Reading(self.clock.monotonic(), process.cpu_seconds(), process.memory_bytes())
        if not reading.memory:  # it is just ending: a container's counters go before its exit code is known
            return None
        self._readings[task.arn] = reading
        return reading

    def _measure(self, minute: int) -> None:
        """Close the minutes before this one. If a busy machine made us miss some, each gets the average over all."""
        before, self._readings = self._readings, {}
        with self.records.lock:  # those that drain, too: they run until they are told to end
            tasks = [task for arn, task in self.records.tasks.items() if arn in before]
        for task in tasks:
            first, last = before[task.arn], self._read(task)
            if last is None or (last.at - first.at) * self.clock.speed < SHORTEST_PART:
                continue
            cpu = 100 * (last.cpu - first.cpu) / ((last.at - first.at) * task.cpu / 1024)
            memory = 100 * last.memory / (task.memory * 1024**2)
            for closed in range(self._minute, minute):
                for name, value in (("CPUUtilization", cpu), ("MemoryUtilization", memory)):
                    sample = _datum(name, _ecs_dimensions(task), closed, Value=round(min(value, 100.0), 4))
                    self._used[closed].append((task.region, sample))
        self._minute = minute

    def _count_hosts(self, minute: int) -> None:
        with self.records.lock:
            regions = {task.region for task in self.records.tasks.values()}
        for region in regions:
            for target_group, load_balancer in self._balanced(region):
                states = Counter(target.state for target in self.health(target_group).values())
                if states:  # AWS reports the counts only of a group that has targets
                    counts = (states["healthy"], states["unhealthy"])
                    self._hosts[minute][target_group, load_balancer].append(counts)

    def _balanced(self, region: str) -> list[tuple[str, str]]:
        """(target group ARN, load balancer ARN) of the groups that a load balancer uses."""
        version = self.changes("elbv2")
        known = self._target_groups.get(region)
        if known is None or known[0] != version:
            groups = self.aws("elbv2", region).describe_target_groups()["TargetGroups"]
            pairs = [
                (group["TargetGroupArn"], arn)
                for group in groups
                for arn in group.get("LoadBalancerArns", [])
            ]
            self._target_groups[region] = known = (version, pairs)
        return known[1]

    def _publish(self, now: float) -> None:
        """Put what belongs to minutes that ended long enough ago; a request that took very long comes after its minute."""
        last = int((now - PUBLICATION_DELAY) // MINUTE) - 1
        for minute in sorted(
            minute for minute in {*self._used, *self._served, *self._hosts} if minute <= last
        ):
            used = self._used.pop(minute, [])
            hosts = self._hosts.pop(minute, {})
            served = self._served.pop(minute, [])
            for region in {region for region, _ in used}:
                self._put(region, "AWS/ECS", [sample for of, sample in used if of == region])
            by_region: dict[str, list[Datum]] = defaultdict(list)
            for arn, datum in [*host_datums(minute, hosts), *request_datums(minute, served, hosts)]:
                by_region[arn.split(":")[3]].append(datum)
            for region, datums in by_region.items():
                self._put(region, "AWS/ApplicationELB", datums)

    def _put(self, region: str, namespace: str, datums: list[Datum]) -> None:
        for start in range(0, len(datums), DATUMS_IN_A_CALL):
            batch = datums[start : start + DATUMS_IN_A_CALL]
            self.aws("cloudwatch", region).put_metric_data(Namespace=namespace, MetricData=batch)

    def get_metric_statistics(self, call: Call) -> dict[str, Any]:
        """By way of GetMetricData: moto's own has no percentiles, and takes a metric with more dimensions for this one."""
        asked = call.params
        metric = {key: asked[key] for key in ("Namespace", "MetricName", "Dimensions") if key in asked}
        statistics = [*asked.get("Statistics", []), *asked.get("ExtendedStatistics", [])]
        if not statistics:
            return call.forward()  # moto refuses it in AWS's words
        unit = {"Unit": asked["Unit"]} if "Unit" in asked else {}
        queries = [
            {
                "Id": f"s{number}",
                "MetricStat": {"Metric": metric, "Period": asked["Period"], "Stat": stat, **unit},
            }
            for number, stat in enumerate(statistics)
        ]
        results = self.aws("cloudwatch", call.region).get_metric_data(
            MetricDataQueries=queries, StartTime=asked["StartTime"], EndTime=asked["EndTime"]
        )["MetricDataResults"]
        points: dict[datetime, Datum] = {}
        for stat, result in zip(statistics, results, strict=True):
            for time, value in zip(result["Timestamps"], result["Values"], strict=True):
                unit_name = asked.get("Unit") or UNITS.get(asked["MetricName"], "None")
                point = points.setdefault(time, {"Timestamp": time, "Unit": unit_name})
                if stat in STATISTICS:
                    point[stat] = value
                else:
                    point.setdefault("ExtendedStatistics", {})[stat] = value
        return {"Label": asked["MetricName"], "Datapoints": list(points.values())}


def _datum(name: str, dimensions: dict[str, str], minute: int, **value: Any) -> Datum:
    return {
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": of} for key, of in dimensions.items()],
        "Timestamp": datetime.fromtimestamp(minute * MINUTE, UTC),
        "Unit": UNITS.get(name, "Count"),
        **value,
    }


def _ecs_dimensions(task: Task) -> dict[str, str]:
    cluster = {"ClusterName": task.cluster_arn.rsplit("/", 1)[-1]}
    return cluster | ({"ServiceName": task.service_arn.rsplit("/", 1)[-1]} if task.service_arn else {})


def _elb_dimensions(load_balancer: str, target_group: str | None) -> dict[str, str]:
    """The names that CloudWatch knows them by, from their ARNs: app/<name>/<id> and targetgroup/<name>/<id>."""
    names = {"LoadBalancer": load_balancer.split(":loadbalancer/")[-1]}
    return names | ({"TargetGroup": target_group.rsplit(":", 1)[-1]} if target_group else {})


def _distribution(
    name: str, dimensions: dict[str, str], minute: int, samples: Iterable[float]
) -> list[Datum]:
    counts = sorted(Counter(samples).items())
    return [
        _datum(
            name, dimensions, minute, Values=[value for value, _ in part], Counts=[float(n) for _, n in part]
        )
        for part in (counts[at : at + VALUES_IN_A_DATUM] for at in range(0, len(counts), VALUES_IN_A_DATUM))
    ]


def host_datums(minute: int, hosts: dict[tuple[str, str], list[tuple[int, int]]]) -> list[tuple[str, Datum]]:
    """(load balancer ARN, datum) from the counts (healthy, unhealthy) of each (target group, load balancer)."""
    datums = []
    for (target_group, load_balancer), counts in hosts.items():
        dimensions = _elb_dimensions(load_balancer, target_group)
        for name, index in (("HealthyHostCount", 0), ("UnHealthyHostCount", 1)):
            samples = [float(count[index]) for count in counts]
            datums += [(load_balancer, datum) for datum in _distribution(name, dimensions, minute, samples)]
    return datums


def request_datums(
    minute: int, requests: Iterable[Request], hosts: dict[tuple[str, str], list[tuple[int, int]]]
) -> list[tuple[str, Datum]]:
    """(load balancer ARN, datum) for a minute's requests. What did not happen has no datum: at AWS a gap means zero."""
    groups: dict[tuple[str, str | None], list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.load_balancer_arn, None].append(request)
        if request.target is not None and request.target_group_arn is not None:
            groups[request.load_balancer_arn, request.target_group_arn].append(request)
    datums: list[tuple[str, Datum]] = []
    for (load_balancer, target_group), served in groups.items():
        dimensions = _elb_dimensions(load_balancer, target_group)
        counts: Counter[str] = Counter()
        for request in served:
            counts["RequestCount"] += request.target is not None
            if request.target_status is not None:
                counts[f"HTTPCode_Target_{request.target_status // 100}XX_Count"] += 1
            elif request.elb_status >= 500 and target_group is None:
                counts["HTTPCode_ELB_5XX_Count"] += 1
                counts[f"HTTPCode_ELB_{request.elb_status}_Count"] += 1
        made = [
            _datum(name, dimensions, minute, Value=float(count)) for name, count in counts.items() if count
        ]
        seconds = (round(request.seconds, 6) for request in served if request.target_status is not None)
        made += _distribution("TargetResponseTime", dimensions, minute, seconds)
        if target_group is not None:
            healthy = [count[0] for count in hosts.get((target_group, load_balancer), [])]
            each = len(served) / max(sum(healthy) / len(healthy) if healthy else 1.0, 1.0)
            for names in (dimensions, {"TargetGroup": dimensions["TargetGroup"]}):
                made.append(_datum("RequestCountPerTarget", names, minute, Value=each))
        datums += [(load_balancer, datum) for datum in made]
    return datums
