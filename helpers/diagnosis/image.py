"""Rules of the image: a reference that names none, one that is not there, one for another kind of machine."""

from __future__ import annotations

import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import POSSIBLE, PROVEN, SHOWN, Finding

TASK = "AWS::ECS::TaskDefinition"
PULL = r"CannotPull\w*Error|CannotPullImageManifest|pull image manifest|manifest for .* not found"
MISSING = (
    r"manifest (for \S+ )?(unknown|not found)|: not found|image not found|NAME_UNKNOWN|repository \S+ not found|"
    r"does not exist in the registry|no such image|pull access denied|not found: does not exist"
)
REFERENCE = r"invalid reference format|repository contains invalid characters|InvalidImageReference"
ECR = re.compile(
    r"^(?P<registry>\d{12}\.dkr[.-]ecr[.-][\w.-]+)/(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?$"
)
# Of a registry's host, dual-stack ones included: 123456789012.dkr.ecr.eu-west-1.amazonaws.com, ….dkr-ecr.eu-west-1.on.aws
HOST = re.compile(r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.")
ARN = re.compile(
    r"^arn:[\w-]+:ecr:(?P<region>[\w-]+):(?P<account>\d+):repository/(?P<repository>[^:@]+)(?P<rest>.*)$"
)
# Said of an image for another kind of machine: by the kernel in the log, by the registry's client before the start.
PLATFORM = r"descriptor (matching|for) platform|no match for platform|no matching manifest for"
FORMAT = r"exec format error"
OFFICIAL = re.compile(
    r"^(?:docker\.io/)?(?:library/)?(?P<name>[^/]+)$"
)  # of Docker Hub, and nobody's in particular
LIMIT = r"toomanyrequests|reached your (unauthenticated )?pull rate limit|429 Too Many Requests"


def image_reference(e: Evidence) -> list[Finding]:
    image = e.container.get("image") or ""
    said = [line for line in e.said(f"{PULL}|{REFERENCE}") if re.search(REFERENCE, line, re.I)]
    arn = ARN.match(image)
    broken = bool(arn) or image != image.strip() or image.startswith(("http:", "https:", "sha256:"))
    if not said and not broken:
        return []
    evidence = list(said) or e.said(PULL)
    if image:
        evidence.append(f"ecs describe_task_definition, image: {image}")
    good = "<account>.dkr.ecr.<region>.amazonaws.com/<repository>@sha256:<digest>"
    if arn:
        rest = arn["rest"] or ":<tag>"
        good = f"{arn['account']}.dkr.ecr.{arn['region']}.amazonaws.com/{arn['repository']}{rest}"
    cause = "The image is given as the ARN of its repository: " if arn else "The image's name is malformed: "
    weight = PROVEN if evidence[:-1] and (broken or said) else SHOWN
    return [
        Finding(
            f"{cause}a registry's address, a repository, and a tag or digest are wanted.",
            weight,
            tuple(evidence),
            fixes.new_image(e, good),
        )
    ]


def image_missing(e: Evidence) -> list[Finding]:
    image = e.container.get("image") or ""
    # 403 is about permissions, whatever else the line says.
    said = [
        line for line in e.said(MISSING) if re.search(PULL, line, re.I) and not re.search(r"\b403\b", line)
    ]
    absent = e.one("image").get("missing", "")
    if ARN.match(image) or (not said and not absent):
        return []
    evidence = list(said)
    if absent:
        evidence.append(f"ecr describe_images, {image}: {absent}")
    elif e.one("image").get("details"):
        evidence.append(f"ecr describe_images: {image} is there now")
    decide = _images(e, image)
    fix = (
        f"{decide}  # what there is\n"
        f"docker push {image.partition('@')[0] or '<image>'}  # or push it, and name in the template what was pushed"
    )
    what = "The repository" if "Repository" in absent else "The image"
    cause = f"{what} that the task definition names is not there: {image or 'see the reason'}."
    weight = PROVEN if said and absent else SHOWN
    if e.one("image").get("details") and said:
        weight = POSSIBLE  # pushed since: the next try finds it
        fix = fixes.redeploy(e)
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def pull_limit(e: Evidence) -> list[Finding]:
    """A public registry that gives no more images for a while: Docker Hub counts pulls by address."""
    said = e.said(LIMIT)
    if not said:
        return []
    image = e.container.get("image") or "<image>"
    fix = "Put the image into a repository of your own, by an ECR pull-through cache rule or docker push."
    if official := OFFICIAL.match(image):
        copied = fixes.new_image(e, f"public.ecr.aws/docker/library/{official['name']}")
        fix = (
            f"{fix}\nOr take the copy of Docker's official images that Amazon's public gallery has:\n{copied}"
        )
    cause = f"The registry of {image} gives no more pulls for now: it limits them for those who are not logged in."
    return [Finding(cause, PROVEN, (*said, f"ecs describe_task_definition, image: {image}"), fix)]


def _images(e: Evidence, image: str) -> str:
    """The call that lists what is in the image's repository, in the account and region that its URI names."""
    parts, host = ECR.match(image), HOST.match(image)
    region, registry = "", {}
    if host and host["region"] != e.one("names").get("region"):
        region = host["region"]
    if host and f":{host['account']}:" not in (e.service.get("serviceArn") or ""):
        registry = {"registryId": host["account"]}
    repository = parts["repository"] if parts else "<repository>"
    return fixes.call("ecr", "describe_images", region=region, **registry, repositoryName=repository)


def architecture(e: Evidence) -> list[Finding]:
    platform = e.one("task_definition").get("runtimePlatform") or {}
    wanted = platform.get("cpuArchitecture") or "X86_64"
    said = e.said(f"{PLATFORM}|{FORMAT}") + e.logged(FORMAT)
    manifest = e.one("image_platforms").get("platforms") or []
    docker = "amd64" if wanted == "X86_64" else "arm64"
    known = e.on_fargate or bool(platform.get("cpuArchitecture"))  # elsewhere it is the machine's
    mismatch = known and bool(manifest) and docker not in manifest
    if not said and not mismatch:
        return []
    evidence = [*said, f"ecs describe_task_definition, runtimePlatform: {wanted}"]
    if manifest:
        evidence.append(f"ecr batch_get_image: the image is for {', '.join(manifest)}")
    image = (e.container.get("image") or "<image>").partition("@")[0]
    other = "ARM64" if wanted == "X86_64" else "X86_64"
    fix = (
        f"docker buildx build --platform linux/{docker} --tag {image} --push .\n"
        "or run it on the kind of machine that it is for:\n"
        + fixes.diff(
            e,
            TASK,
            f"CpuArchitecture: {other}"
            if fixes.in_template(e, TASK, "CpuArchitecture:")
            else f"RuntimePlatform: {{OperatingSystemFamily: LINUX, CpuArchitecture: {other}}}",
            removed="CpuArchitecture:",
        )
    )
    cause = f"The image was built for another kind of machine than {wanted}, on which the task runs."
    return [Finding(cause, PROVEN if said else SHOWN, tuple(evidence), fix)]
