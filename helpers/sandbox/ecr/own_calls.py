"""An API call that a handler makes on behalf of a caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from helpers.sandbox.endpoint import AwsError


def on_behalf(operation: Callable[..., dict[str, Any]], **params: Any) -> dict[str, Any]:
    """The answer of `operation`; an error of it is the error of the call that is being handled."""
    try:
        answer = operation(**params)
    except ClientError as error:
        told, status = error.response["Error"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        raise AwsError(told["Code"], told["Message"], status) from error
    except ParamValidationError as error:
        raise AwsError("InvalidParameterException", str(error)) from error
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}
