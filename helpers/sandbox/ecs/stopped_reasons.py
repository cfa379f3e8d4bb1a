"""Stands in for what Fargate says of a task that it could not start: the text after an error's name in stoppedReason.

Differs: request ids are made up. "StatusCode: 0" means that no answer came: a matter of the network; 400 that AWS refused.
Sources: "Troubleshooting Amazon ECS ResourceInitializationError errors" and "CannotPullContainer task errors in Amazon
ECS" (Developer Guide, A) for what begins each text; the whole of it as printed in public reports of 2024 to 2026 (C).
"""

from __future__ import annotations

import hashlib
import uuid

from helpers.sandbox.partitions import url_suffix

# Beginnings of stoppedReason's text in ECS and Fargate.
_AUTH = "unable to pull secrets or registry auth: "
_LOGGER = "failed to validate logger args: "
_MANIFEST = "pull image manifest has been retried {} time(s): "


def registry_auth_timed_out(region: str) -> str:
    """No way to ECR's API. Source: service events of 2025 and 2026, PV 1.4.0 (C)."""
    host = f"api.ecr.{region}.{url_suffix(region)}"
    return (
        f"{_AUTH}The task cannot pull registry auth from Amazon ECR: There is a connection issue between the task and "
        "Amazon ECR. Check your task network configuration. operation error ECR: GetAuthorizationToken, exceeded "
        "maximum number of attempts, 3, https response error StatusCode: 0, RequestID: , request send failed, Post "
        f'"https://{host}/": dial tcp {address_of(host)}:443: i/o timeout'
    )


def registry_auth_denied(refusal: str, task_id: str) -> str:
    """The role may not ecr:GetAuthorizationToken. Source: a service event, three times printed alike (C)."""
    return (
        f"{_AUTH}execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been "
        "retried 1 time(s): operation error ECR: GetAuthorizationToken, https response error StatusCode: 400, "
        f"RequestID: {_request_id(task_id, 'token')}, api error AccessDeniedException: {refusal}"
    )


def manifest_timed_out(image: str, registry: str, path: str) -> str:
    """No way to the registry itself. Source: the Developer Guide's heading (A), with what containerd says (C)."""
    return (
        f"The task cannot pull {image} from the Amazon ECR repository {registry}. There is a connection issue between "
        "the task and Amazon ECR. Check your task network configuration. : failed to resolve ref "
        f'{image}: failed to do request: Head "https://{registry}/v2/{path}": dial tcp {address_of(registry)}:443: '
        "i/o timeout"
    )


def manifest_denied(image: str, registry: str, path: str) -> str:
    """The role may not ecr:BatchGetImage. Source: aws-samples/bedrock-access-gateway#114 (C)."""
    return (
        f"{_MANIFEST.format(1)}failed to resolve ref {image}: unexpected status from HEAD request to "
        f"https://{registry}/v2/{path}: 403 Forbidden"
    )


def manifest_not_found(image: str) -> str:
    """No such repository, tag or digest. Source: aws/containers-roadmap#2687 (C)."""
    return f"{_MANIFEST.format(1)}failed to resolve ref {image}: {image}: not found"


def no_such_platform(platform: str) -> str:
    """An index without the task's platform: what `docker build` pushes by default, of an arm64 laptop say. An image
    without index is not looked into, it fails at its start. Source: aviswerdlow/relay#71 (service events, C)."""
    return f"{_MANIFEST.format(7)}image Manifest does not contain descriptor matching platform '{platform}'"


def no_image_reference(image: str) -> str:
    """It is no reference to an image, an ARN for instance. The words are containerd's; one report of Fargate 1.4.0 has
    them after "InternalError: failed to create container model: " (C), ECS's guide puts it under this error (U)."""
    return f'failed to normalize image reference "{image}": invalid reference format'


def layers_timed_out(image: str, host: str) -> str:
    """No way to S3, where ECR keeps the layers. Source: stopped tasks of 2025, printed alike by three (C)."""
    return (
        f"The task cannot pull {image} from the registry {image}. There is a connection issue between the task and the "
        "registry. Check your task network configuration. : failed to copy: httpReadSeeker: failed open: failed to do "
        f"request: Get {image}: dial tcp {address_of(host)}:443: i/o timeout"
    )


def layers_denied(registry: str, repository: str) -> str:
    """The role may not ecr:GetDownloadUrlForLayer. Source: the Developer Guide's heading (A); the rest (U)."""
    return (
        "ref pull has been retried 1 time(s): failed to copy: httpReadSeeker: failed open: unexpected status code "
        f"https://{registry}/v2/{repository}/blobs/: 403 Forbidden"
    )


def logs_timed_out() -> str:
    """No way to CloudWatch Logs: the group may well be there. Source: civiform/civiform#7648 and others (C)."""
    return (
        f"{_LOGGER}The task cannot find the Amazon CloudWatch log group defined in the task definition. There is a "
        "connection issue between the task and Amazon CloudWatch. Check your network configuration. : signal: killed"
    )


def logs_refused(operation: str, error: str, task_id: str) -> str:
    """`operation`: CreateLogStream or CreateLogGroup; `error`: "<code>: <message>". Source: service events of 2026 (C)."""
    what = "group" if operation == "CreateLogGroup" else "stream"
    # The SDK puts "api error" before errors that the operation does not name in its model.
    api = "api error " if error.startswith("AccessDenied") else ""
    return (
        f"{_LOGGER}create stream has been retried 1 times: failed to create Cloudwatch log {what}: operation error "
        f"CloudWatch Logs: {operation}, https response error StatusCode: 400, RequestID: "
        f"{_request_id(task_id, operation)}, {api}{error} : exit status 1"
    )


def not_started(runtime_says: str) -> str:
    """The container runtime could not start the program. `runtime_says`: from "OCI runtime create failed" on.

    Source: aws/amazon-ecs-agent#3526 and others (C).
    """
    return (
        "ResourceInitializationError: failed to create new container runtime task: failed to create shim task: "
        f"{runtime_says}"
    )


def unable_to_assume(role: str) -> str:
    """Source: boto/boto3#1878, telia-oss/terraform-aws-ecs-fargate#58 (C)."""
    return (
        f"ECS was unable to assume the role '{role}' that was provided for this task. Please verify that the role being "
        "passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this "
        "role."
    )


def access_denied(user: str, action: str, resource: str, why: str) -> str:
    """`user`: the ARN of who asked; `why`: as `Roles.why_not` says it."""
    return f"User: {user} is not authorized to perform: {action} on resource: {resource} {why}"


def address_of(host: str) -> str:
    """An address for a name, the same each time: one of those that documents use (RFC 5737)."""
    return f"198.51.100.{int(hashlib.sha256(host.encode()).hexdigest(), 16) % 254 + 1}"


def _request_id(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(parts)))
