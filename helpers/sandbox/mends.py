"""Stands in for what moto leaves out of AWS's own records: the time of day, and the network of a new account.

Differs: a region has three zones, though some of AWS's have more. Every internal of moto that the sandbox touches
for this is named here, and `tests/sandbox/test_mends.py` fails when moto changes one or fills a gap itself.
"""

from __future__ import annotations

import datetime
import importlib
import time
from functools import cache
from types import ModuleType
from typing import Any

from helpers.sandbox.clock import Clock

ZONES = 3
PRELOAD = (  # what the journey calls, loaded at the start: the first call to a service would take 1–2 s otherwise
    *("sts", "iam", "ec2", "ecr", "ecs", "elbv2", "logs", "cloudwatch", "applicationautoscaling", "ssm"),
    *("resourcegroupstaggingapi", "events", "sns"),
)
# moto reads the time of day through these modules' globals; its other modules call moto.core.utils.utcnow.
READS_DATETIME = ("moto.core.utils", "moto.ecr.models", "moto.cloudwatch.models")
READS_TIME = ("moto.applicationautoscaling.models",)


def share_models() -> None:
    """Have one copy of botocore's data for all sessions of this process, and one of moto's. Call it before anything
    makes a session: each would read the same files again, half a second of the start in all."""
    import botocore.session

    read = cache(botocore.session.create_loader)
    botocore.session.create_loader = lambda search_path_string=None: read(search_path_string)
    import moto.core.utils

    moto.core.utils.create_loader = cache(moto.core.utils.create_loader)


def forget_instances() -> None:
    """Have moto keep what its records hold and no more: it lists every object it ever made, each metric's sample and
    each log event, for a dashboard that nobody has here."""
    from moto.core.common_models import BaseModel

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return super(BaseModel, cls).__new__(cls)

    BaseModel.__new__ = staticmethod(new)


def install_time(clock: Clock) -> None:
    """From now on moto's records carry AWS time, and its limits on times (logs, say) count from AWS time."""

    class AwsDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            now = datetime.datetime.fromtimestamp(clock.time(), tz or datetime.UTC)
            return now if tz else now.replace(tzinfo=None)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.now()

    for name in READS_DATETIME:
        module = importlib.import_module(name)
        if isinstance(module.datetime, ModuleType):  # `import datetime`
            module.datetime = _copy(datetime, datetime=AwsDatetime)
        else:  # `from datetime import datetime`
            module.datetime = AwsDatetime
    for name in READS_TIME:
        module = importlib.import_module(name)
        module.time = _copy(time, time=clock.time)


def _copy(module: ModuleType, **replaced: Any) -> ModuleType:
    copy = ModuleType(module.__name__)
    copy.__dict__.update(module.__dict__)
    copy.__dict__.update(replaced)
    return copy


def preload() -> None:
    """Import moto's models of the services that the journey uses."""
    for service in PRELOAD:
        importlib.import_module(f"moto.{service}.responses")


def furnish(ec2: Any) -> None:
    """Make the default VPC of a region (`ec2`: its boto3 client) as a new account has it.

    An internet gateway and the default route to it, the default security group's rule for its own members, and a
    subnet in each of three zones. Source: "Default VPC components", Amazon VPC User Guide.
    """
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    of_vpc = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    attached = [{"Name": "attachment.vpc-id", "Values": [vpc["VpcId"]]}]
    if not ec2.describe_internet_gateways(Filters=attached)["InternetGateways"]:
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc["VpcId"])
        main = [{"Name": "association.main", "Values": ["true"]}]
        (table,) = ec2.describe_route_tables(Filters=of_vpc + main)["RouteTables"]
        ec2.create_route(
            RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway
        )
    by_name = [{"Name": "group-name", "Values": ["default"]}]
    (group,) = ec2.describe_security_groups(Filters=of_vpc + by_name)["SecurityGroups"]
    if not group["IpPermissions"]:
        own = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[own])
    subnets = ec2.describe_subnets(Filters=of_vpc)["Subnets"]
    for subnet in sorted(subnets, key=lambda subnet: subnet["AvailabilityZone"])[ZONES:]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
