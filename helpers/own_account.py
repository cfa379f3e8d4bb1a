"""The learner's own AWS account, as `doctor --aws` asks it: where the calls go, told before they are made.

Nothing here calls anything but STS's get_caller_identity, which is free and asks for no permission.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, ProfileNotFound

from helpers import naming
from helpers.display import wrap
from helpers.errors import TutorialError

# Real seconds, of each address of an endpoint that does not answer: botocore waits for 60, five times.
CONNECTS_WITHIN, ANSWERS_WITHIN, ATTEMPTS = 3, 20, 3


@dataclass(frozen=True)
class Place:
    """`account`: its number, "" where it could not be read; then `unread` says why."""

    region: str
    account: str
    unread: str = ""

    def __str__(self) -> str:
        account = f"the account {self.account}" if self.account else "an account that could not be read"
        told = wrap(
            f"Looking at {account} in {self.region}, with your own credentials. Nothing is changed, and nothing is "
            "charged but three metrics of CloudWatch: less than a hundredth of a cent."
        )
        return told + (
            "\n" + wrap(f"Not read: sts get_caller_identity: {self.unread}") if self.unread else ""
        )


def configured_region() -> str:
    """The region that AWS_REGION, AWS_DEFAULT_REGION or the profile names. TutorialError where none does."""
    import boto3

    try:
        session = boto3.DEFAULT_SESSION or boto3.session.Session()
        found = os.environ.get("AWS_REGION") or session.region_name
    except ProfileNotFound as error:
        raise _no_profile(error) from None
    if not found:
        raise TutorialError(
            "No region is configured.",
            seen="neither AWS_REGION, AWS_DEFAULT_REGION nor the profile names one",
            next="Set AWS_DEFAULT_REGION, or say --region with the doctor.",
        )
    return found


def enter(region: str | None) -> Place:
    """Let boto3's calls from here on go to AWS, to this region or the configured one, and give up soon where nobody
    answers. TutorialError where they lead to this machine, or without a profile, a region or credentials."""
    import boto3
    import botocore.session
    from botocore.config import Config

    _refuse_loopback()
    region = region or configured_region()
    naming.check_region(region)
    core = botocore.session.get_session()
    soon = Config(
        connect_timeout=CONNECTS_WITHIN,
        read_timeout=ANSWERS_WITHIN,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    core.set_default_client_config(soon)
    try:
        boto3.setup_default_session(botocore_session=core, region_name=region)
        if core.get_credentials() is None:
            raise _no_credentials("neither the environment nor the profile has any")
        return _identified(region)
    except ProfileNotFound as error:
        raise _no_profile(error) from None
    except BotoCoreError as error:
        raise _no_credentials(f"{type(error).__name__}: {error}") from None


def _identified(region: str) -> Place:
    import boto3

    try:
        return Place(region, boto3.client("sts").get_caller_identity()["Account"])
    except ClientError as error:
        told = error.response["Error"]
        return Place(region, "", f"{told['Code']}: {told.get('Message', '')}")
    except (ConnectionError, HTTPClientError) as error:
        return Place(region, "", f"{type(error).__name__}: {error}")


def _refuse_loopback() -> None:
    for name, value in os.environ.items():
        host = urlsplit(value).hostname or "" if name.startswith("AWS_ENDPOINT_URL") else ""
        if host in ("localhost", "::1") or host.startswith("127."):
            raise TutorialError(
                "These variables lead to the sandbox, not to AWS.",
                seen=f"{name}={value}",
                next="Use another terminal, in which `connect` has not set them. Or leave --aws out.",
            )


def _no_profile(error: ProfileNotFound) -> TutorialError:
    return TutorialError(
        "There is no such AWS profile.",
        seen=str(error),
        next="`aws configure list-profiles` names those that there are. Set AWS_PROFILE to one of them.",
    )


def _no_credentials(seen: str) -> TutorialError:
    return TutorialError(
        "AWS cannot be asked: no credentials were found that can be used.",
        seen=seen,
        next="`aws configure` or `aws sso login` makes them; AWS_PROFILE says which to use.",
    )
