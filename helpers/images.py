"""Images: from the app's directory to a registry.

Where tasks run as containers, a Docker Engine builds an image from the app's Dockerfile and pushes it
(helpers/builds.py, helpers/pushes.py). Elsewhere an image is a snapshot of the directory (helpers/snapshots.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from helpers.app_directory import CHECKOUT, copy_app
from helpers.builds import DockerImage
from helpers.errors import TutorialError
from helpers.snapshots import Snapshot

__all__ = ["Image", "build_image", "copy_app", "push_image", "trial_image"]
Image = DockerImage | Snapshot


def build_image(
    app_dir: str | Path,
    tag: str | None = None,
    *,
    dockerfile: str | Path | None = None,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    platform: str | None = None,
) -> Image:
    """An image of a Node.js app. `app_dir`: where its package.json is; a relative one starts at the checkout.

    `tag`: "1.0.0" or, as Docker has it, "name:1.0.0". Without one it is twelve digits of the image's hash, so that
    another content has another tag. `dockerfile`: a text or a path in the app, unless its own; a snapshot only starts
    what that says. The rest is for a Docker build: `platform`, "linux/amd64". TutorialError with the step that failed.
    """
    if with_docker():
        from helpers import builds

        return builds.build(
            app_dir, tag, dockerfile=dockerfile, build_args=build_args, no_cache=no_cache, platform=platform
        )
    from helpers import builds, snapshots

    text = None if dockerfile is None else builds.dockerfile_of(CHECKOUT / app_dir, dockerfile)
    return snapshots.build(app_dir, tag, text)


def push_image(image: Image, repository_uri: str, token: str | None = None) -> str:
    """Push to ECR what it does not have yet, a printed line for each part; returns the URI with digest, as a task
    definition wants it.

    `token`: what Docker logs in with, asked for unless told. A snapshot goes by ECR's API, which the AWS credentials
    sign for.
    """
    if not isinstance(image, Image):
        raise TutorialError(
            "There is no image to push in that.",
            seen=f"{image!r:.80}",
            next="Give it what build_image returns: push_image(build_image(app_dir), repository_uri).",
        )
    if not isinstance(repository_uri, str):
        raise TutorialError(
            "That is not an ECR repository's URI.",
            seen=f"{repository_uri!r:.80}",
            next="Use the `repositoryUri` that create_repository or describe_repositories answers.",
        )
    if isinstance(image, DockerImage):
        from helpers import pushes

        return pushes.push(image, repository_uri, token)
    from helpers import snapshots

    return snapshots.push(image, repository_uri)


def trial_image(tag: str) -> Image:
    """A tiny image that is different for each tag: something to try a registry with."""
    from helpers import builds, snapshots

    return builds.trial(tag) if with_docker() else snapshots.trial(tag)


def with_docker() -> bool:
    """Whether images are built by an engine: where tasks run as containers."""
    from helpers import session

    lab = session.connected()
    return lab is not None and lab.runtime == "container"


def why_no_docker() -> str:
    """Why nothing is built here; "" where an engine builds."""
    from helpers import session

    if with_docker():
        return ""
    lab = session.connected()
    if lab is None:
        return "this notebook is not connected yet"
    return lab.running.why or "tasks run as processes here"
