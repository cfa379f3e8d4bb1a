"""`bench` of what needs a Docker Engine: two images of the app, ten tasks at once, and what it takes to read their CPU.

Everything that this makes in the engine is gone afterwards, but not the base images that it had to fetch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers import this_machine
from helpers.bench_sandbox import APP, NAME, Attempt, Say, own_sandbox, serve
from helpers.errors import SetupError

if TYPE_CHECKING:
    import pandas as pd

    from helpers.services import Service

OBVIOUS = """\
FROM node:latest
WORKDIR /app
COPY . .
RUN npm install && npm run build --if-present
EXPOSE 3000
CMD ["npm", "start"]
"""  # notebook 02's
TASKS = 10
SMALL = (256, 512)  # CPU units and MiB, as in notebook 06
PATIENCE = 60.0  # real seconds for the tasks to be healthy
LOOK = 0.05  # real seconds between two looks at them
READINGS = 200  # of every task's CPU
ONCE_A_SECOND = "the kernel's files cannot be read from here; the engine tells it once a second"


def containers(say: Say, attempt: Attempt) -> dict[str, Any]:
    """Under "containers" what could be measured, or why nothing of it can be here: {"not_measured": …}."""
    began = time.monotonic()
    say("Containers:")
    try:
        with own_sandbox("container") as lab:
            found: dict[str, Any] = {"first_answer_seconds": round(time.monotonic() - began, 2)}
            for name, part in (("images", images), ("tasks", tasks)):
                found |= attempt(name, lambda part=part: part(say))
            found["speed"] = lab.speed
    except SetupError as lacking:
        say(f"not measured: {lacking.seen or lacking.what}")
        return {"containers": {"not_measured": lacking.seen or lacking.what}}
    return {"containers": found}


# --- images -----------------------------------------------------------------------------------------------------------


def images(say: Say) -> dict[str, Any]:
    """The obvious and the good Dockerfile, each built from nothing and again after a changed line."""
    from helpers import builds, comparison
    from helpers.app_directory import CHECKOUT
    from helpers.dockerfile import stages

    good = builds.dockerfile_of(CHECKOUT / APP)
    compared = comparison.compare_builds(APP, obvious=OBVIOUS, good=good, without_dockerignore=["obvious"])
    sizes = {name: image.size for name, image in compared.images.items()}
    bases = {
        name: builds.image(stages(text)[-1].base).size
        for name, text in (("obvious", OBVIOUS), ("good", good))
    }
    found = image_shares(compared.table, sizes, bases)
    say(
        "MB: "
        + ", ".join(
            f"{name} {size:.1f}, of that {found['added_mb'][name]:.1f} on its base"
            for name, size in found["size_mb"].items()
        )
    )
    return {"images": found}


def image_shares(
    table: pd.DataFrame, sizes: Mapping[str, int], bases: Mapping[str, int]
) -> dict[str, dict[str, float] | float]:
    """Of compare_builds' table with the columns obvious and good, and the sizes in bytes of their images and of the bases
    of these. `added`: what an image has that its base has not, which is what they would differ by on the same base."""
    added = {name: size - bases[name] for name, size in sizes.items()}
    return {
        "size_mb": {name: round(size / 1e6, 1) for name, size in sizes.items()},
        "size_share": round(sizes["good"] / sizes["obvious"], 3),
        "added_mb": {name: round(size / 1e6, 1) for name, size in added.items()},
        "added_share": round(added["good"] / added["obvious"], 3),
        "cold_seconds": {name: float(table[name]["build from nothing, s"]) for name in sizes},
        "rebuild_share": round(float(table["good"]["of that, in %"]) / 100, 2),
        "obvious_rebuild_share": round(float(table["obvious"]["of that, in %"]) / 100, 2),
    }


# --- tasks ------------------------------------------------------------------------------------------------------------


def tasks(say: Say) -> dict[str, Any]:
    """A service scaled from none to one, and from none to TASKS: until the load balancer calls all of them healthy."""
    from helpers import builds

    name = f"{NAME}-ten"
    image = builds.build(APP, "ten", say=lambda piece: None)
    service, _ = serve(name, image, *SMALL, tasks=0)
    service.until_steady()
    found: dict[str, Any] = {"tasks": TASKS, "one_healthy_seconds": healthy_after(service, 1)}
    scale(service, 0)
    service.until_steady(desired=0)
    found["healthy_seconds"] = healthy_after(service, TASKS)
    say(
        f"healthy after {found['one_healthy_seconds']:.1f} s: one task; after {found['healthy_seconds']:.1f} s: {TASKS}"
    )
    found["cpu_reading"] = cpu_reading(clocks(f"ecs-{name}-"))
    say(f"reading a task's CPU: {reading_in_words(found['cpu_reading'])}")
    return {"ten": found}


def scale(service: Service, tasks: int) -> None:
    import boto3

    boto3.client("ecs").update_service(cluster=service.cluster, service=service.name, desiredCount=tasks)


def healthy_after(service: Service, tasks: int) -> float:
    """Real seconds from the wish for so many tasks until all are healthy. ServiceNotSteady, with the reason, if not."""
    began = time.monotonic()
    scale(service, tasks)
    while service.counts()["healthy"] < tasks:
        if time.monotonic() - began > PATIENCE:
            service.until_steady(0, desired=tasks)
        time.sleep(LOOK)
    return round(time.monotonic() - began, 2)


def clocks(prefix: str) -> list[Callable[[], float] | None]:
    """What reads the CPU seconds of this sandbox's containers whose names begin with `prefix`, as the sandbox does."""
    from helpers.engine import reach

    labels = [f"{key}={value}" for key, value in this_machine.engine_labels().items()]
    with reach() as engine:
        running = engine.api.containers(filters={"label": labels, "name": prefix})
        pids = {each["Id"]: engine.api.inspect_container(each["Id"])["State"]["Pid"] for each in running}
    return [this_machine.cpu_clock(pid, container) for container, pid in pids.items()]


def cpu_reading(
    clocks: Iterable[Callable[[], float] | None], now: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Milliseconds for one reading of one task: the median of READINGS rounds through all tasks, and the longest."""
    readable = [clock for clock in clocks if clock]
    if not readable:
        return {"not_measured": ONCE_A_SECOND}
    rounds = []
    for _ in range(READINGS):
        began = now()
        for clock in readable:
            clock()
        rounds.append(1000 * (now() - began) / len(readable))
    return {
        "tasks": len(readable),
        "median_ms": round(median(rounds), 4),
        "longest_ms": round(max(rounds), 4),
    }


def reading_in_words(found: Mapping[str, Any]) -> str:
    if "not_measured" in found:
        return f"not measured: {found['not_measured']}"
    return (
        f"median {found['median_ms']:.3f} ms, longest {found['longest_ms']:.3f} ms, of {found['tasks']} tasks"
    )
