"""What a lab would cost on AWS: one dated table of prices, and arithmetic.

Nothing is charged in the sandbox. The figures are without taxes, discounts and free tier.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

REGION = "us-east-1"  # the only region whose prices are known here
DATE = "November 2026"
HOURS_A_MONTH = 730  # as AWS's own calculator counts


@dataclass(frozen=True)
class Price:
    """A list price in USD. `confidence`: C means from a third party or observed, not read on AWS's page by us; U, not
    established."""

    usd: Decimal
    per: str
    source: str
    confidence: str = "C"


FARGATE = "https://aws.amazon.com/fargate/pricing/"
BALANCING = "https://aws.amazon.com/elasticloadbalancing/pricing/"
NETWORK = "https://aws.amazon.com/vpc/pricing/"
PRICES = {
    "vcpu": Price(Decimal("0.04048"), "vCPU and hour, x86", FARGATE),
    "gb": Price(Decimal("0.004445"), "GB of memory and hour, x86", FARGATE),
    "vcpu_arm": Price(Decimal("0.03238"), "vCPU and hour, ARM", FARGATE),
    "gb_arm": Price(Decimal("0.00356"), "GB of memory and hour, ARM", FARGATE),
    "load_balancer": Price(Decimal("0.0225"), "application load balancer and hour", BALANCING),
    "lcu": Price(Decimal("0.008"), "load balancer capacity unit and hour", BALANCING),
    "public_ip": Price(Decimal("0.005"), "public IPv4 address and hour", NETWORK),
    "nat_gateway": Price(Decimal("0.045"), "NAT gateway and hour", NETWORK),
    "nat_gb": Price(Decimal("0.045"), "GB through a NAT gateway", NETWORK),
    "insights": Price(
        Decimal("0.07"), "Container Insights metric and month", "https://aws.amazon.com/cloudwatch/pricing/"
    ),
    "image_gb": Price(Decimal("0.10"), "GB of images and month", "https://aws.amazon.com/ecr/pricing/", "U"),
}


@dataclass(frozen=True)
class Cost:
    """USD an hour. `parts`: what it is for, and how much of it."""

    parts: tuple[tuple[str, Decimal], ...]
    region: str = REGION

    @property
    def hourly(self) -> Decimal:
        return sum((usd for _, usd in self.parts), Decimal(0))

    @property
    def monthly(self) -> Decimal:
        return self.hourly * HOURS_A_MONTH

    def __repr__(self) -> str:
        if not self.hourly:
            return "On AWS nothing that runs here would be charged by the hour."
        parts = ", ".join(f"{what} ${usd:.4f}" for what, usd in self.parts if usd)
        sentence = (
            f"On AWS this would cost ${self.hourly:.4f} an hour, ${self.monthly:.2f} a month: {parts}. "
            f"Traffic, logs, images and alarms come on top. Prices of {REGION} as third parties list them in {DATE}; see AWS's pages."
        )
        unknown = f" What it costs in {self.region} is not known here; see {FARGATE}."
        return sentence if self.region == REGION else sentence + unknown


def hourly(
    tasks: int = 0,
    vcpu: float = 0.25,
    gb: float = 0.5,
    load_balancers: int = 0,
    public_ips: int = 0,
    *,
    region: str = REGION,
) -> Cost:
    """The cost of `tasks` Fargate tasks (x86) of so many vCPU and GB each, of load balancers and public addresses."""
    a_task = Decimal(str(vcpu)) * PRICES["vcpu"].usd + Decimal(str(gb)) * PRICES["gb"].usd
    return Cost(
        (
            (f"{_many(tasks, 'task')} of {vcpu:g} vCPU and {gb:g} GB", tasks * a_task),
            (_many(load_balancers, "load balancer"), load_balancers * PRICES["load_balancer"].usd),
            (_many(public_ips, "public IPv4 address", "es"), public_ips * PRICES["public_ip"].usd),
        ),
        region,
    )


def of_lab(name: str) -> Cost:
    """What the service and the load balancer called `name` cost now, by what AWS says is running."""
    import boto3

    ecs, elbv2 = boto3.client("ecs"), boto3.client("elbv2")
    region = ecs.meta.region_name
    try:
        balancers = elbv2.describe_load_balancers(Names=[name])["LoadBalancers"]
    except elbv2.exceptions.LoadBalancerNotFoundException:
        balancers = []
    # A load balancer has an address in each of its zones, a task one of its own if its service asks for it.
    addresses = sum(len(one["AvailabilityZones"]) for one in balancers if one["Scheme"] == "internet-facing")
    try:
        services = ecs.describe_services(cluster=name, services=[name])["services"]
    except ecs.exceptions.ClusterNotFoundException:
        services = []
    running = next((one for one in services if one["status"] != "INACTIVE"), None)
    if running is None:
        return hourly(load_balancers=len(balancers), public_ips=addresses, region=region)
    tasks, size = running["runningCount"], _size(ecs, running["taskDefinition"])
    network = running.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    if network.get("assignPublicIp") == "ENABLED":
        addresses += tasks
    return hourly(tasks, *size, load_balancers=len(balancers), public_ips=addresses, region=region)


def _size(ecs: Any, task_definition: str) -> tuple[float, float]:
    """(vCPU, GB) of a task."""
    described = ecs.describe_task_definition(taskDefinition=task_definition)["taskDefinition"]
    return int(described["cpu"]) / 1024, int(described["memory"]) / 1024


def _many(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else plural}"
