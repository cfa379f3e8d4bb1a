"""Stands in for AWS's partitions: to which one a region belongs, and so how ARNs begin and hosts end there.

Differs: which region is of which partition is as moto has it, since it keeps IAM's records by partition.
"""

from __future__ import annotations

from moto.utilities.utils import get_partition

from helpers.sandbox.endpoint import ACCOUNT

# IAM's region and the suffix of hosts, by partition. Source: botocore's endpoints.json.
_GLOBAL = {
    "aws": ("us-east-1", "amazonaws.com"),
    "aws-cn": ("cn-north-1", "amazonaws.com.cn"),
    "aws-us-gov": ("us-gov-west-1", "amazonaws.com"),
    "aws-iso": ("us-iso-east-1", "c2s.ic.gov"),
    "aws-iso-b": ("us-isob-east-1", "sc2s.sgov.gov"),
    "aws-eusc": ("eusc-de-east-1", "amazonaws.eu"),
}


def partition_of(region: str) -> str:
    return get_partition(region)


def url_suffix(region: str) -> str:
    return _GLOBAL[partition_of(region)][1]


def iam_region(partition: str) -> str:
    """The region that a client of IAM, which is global in its partition, is of; us-east-1 where there is no such
    partition."""
    return _GLOBAL.get(partition, _GLOBAL["aws"])[0]


def arn_of(service: str, region: str, resource: str, account: str = ACCOUNT) -> str:
    return f"arn:{partition_of(region)}:{service}:{region}:{account}:{resource}"
