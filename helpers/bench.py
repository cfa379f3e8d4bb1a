"""`bench`: how fast the course is on this machine, into runs/bench.json.

What can be a ratio is one, both sides measured in turns within the same run: the machine is shared with others. No
figure fails anything; the status is 0 unless something could not be run. All in private sandboxes, which are ended.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from nbformat import NotebookNode

from helpers import run, session
from helpers.checkup import cores
from helpers.errors import TutorialError

Say = Callable[[str], None]

RESULT = run.RUNS / "bench.json"
GOALS = {
    "journey_seconds": 240,  # less is better, but for the share of requests
    "call_median_ms": 50,
    "balancer_share": 0.4,
    "idle_percent_of_a_core": 10,
    "catch_up_seconds": 30,
}
PARTS = ("kernel", "imports", "waits", "load", "rest")
APP = "sample-app"
NAME = "bench"
TASK = {"cpu": "2048", "memory": "4096"}  # two vCPU: more than one Node.js process can use
CONNECTIONS = 16
ROUNDS, ROUND, WARM_UP = 5, 2.0, 2.0  # rounds on each side; real seconds of one
CALM, IDLE = 5.0, 20.0  # real seconds before the sandbox's own CPU is read, and between the two readings
GENERATOR = Path(__file__).with_name("closed_loop.js")
TOOK = re.compile(r"took: (\S+) (\S+): (\d+) calls, median ([\d.]+) ms, longest ([\d.]+) ms")


def bench(say: Say, result: Path = RESULT) -> int:
    """Measure everything, a table for each part; the exit status."""
    measured: dict[str, Any] = {"cores": cores(), "goals": GOALS}
    failed = []
    for name, part in (("journey", journey), ("sandbox", alone)):
        try:
            measured |= part(say)
        except session.mishaps() as problem:
            failed.append(name)
            kind = "" if isinstance(problem, TutorialError) else f"{type(problem).__name__}: "
            say(f"{name} could not be measured. {kind}{problem}")
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(measured, indent=2) + "\n")
    for line in summary(measured):
        say(line)
    say(f"All figures: {os.path.relpath(result)}")
    return 1 if failed else 0


# --- the journey ------------------------------------------------------------------------------------------------------


def journey(say: Say) -> dict[str, Any]:
    """All notebooks, as `run` executes them: where the time goes, and what each AWS call took."""
    say(f"The whole journey, on {cores()} cores:")
    began = time.monotonic()
    status = run.run(say=lambda text: say(text.rstrip("\n")) if text.strip() else None)
    total = time.monotonic() - began
    if status:
        raise TutorialError("The journey did not come to its end.", next="Read what it says above.")
    folder = (run.RUNS / "latest").resolve()
    notebooks = {path.stem: split(run.read(path)) for path in sorted(folder.glob("[0-9][0-9]-*.ipynb"))}
    calls = timings((folder / "sandbox.log").read_text(errors="replace"))
    say("")
    for line in [*journey_table(notebooks, total), "", *calls_table(calls), ""]:
        say(line)
    return {"journey": {"seconds": round(total, 1), "notebooks": notebooks}, "calls": calls}


def split(notebook: NotebookNode | dict) -> dict[str, float]:
    """Real seconds of an executed notebook by PARTS, from the times that papermill keeps."""
    parts = dict.fromkeys(PARTS, 0.0)
    whole = notebook["metadata"]["papermill"]
    ran = [
        cell for cell in notebook["cells"] if cell.get("metadata", {}).get("papermill", {}).get("duration")
    ]
    if ran:
        parts["kernel"] = _seconds(whole["start_time"], ran[0]["metadata"]["papermill"]["start_time"])
    for cell in ran:
        if cell["cell_type"] == "code":
            parts[kind_of(cell["source"])] += cell["metadata"]["papermill"]["duration"]
    parts["rest"] += max(0.0, whole["duration"] - sum(parts.values()))
    return {name: round(seconds, 2) for name, seconds in parts.items()}


def kind_of(source: str) -> str:
    """Which of PARTS a cell's time belongs to, by what it calls."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic or a shell line
        return "rest"
    calls = {_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if calls & {"load", "saturate"}:
        return "load"
    if calls & {"wait_for", "wait"} or any(name.startswith("until") for name in calls):
        return "waits"
    imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
    return "imports" if imports or calls & {"connect", "catch_up"} else "rest"


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def timings(log: str) -> list[dict[str, Any]]:
    """What the sandbox's log says at its end of each operation, the slowest median first."""
    found = [
        {
            "service": service,
            "operation": operation,
            "calls": int(calls),
            "median_ms": float(middle),
            "longest_ms": float(longest),
        }
        for service, operation, calls, middle, longest in TOOK.findall(log)
    ]
    return sorted(found, key=lambda one: -one["median_ms"])


# --- one sandbox ------------------------------------------------------------------------------------------------------


def alone(say: Say) -> dict[str, Any]:
    """A sandbox from nothing: its first answer, catching up, its own CPU with two tasks, its load balancer."""
    measured: dict[str, Any] = {}
    with session.private("bench-"):
        lab = _Lab()
        measured["first_answer_seconds"] = lab.first_answer
        say(f"first answer after a start: {lab.first_answer:.2f} s")
        began = time.monotonic()
        lab.catch_up(through="07", app_dir=APP)
        measured["catch_up_seconds"] = round(time.monotonic() - began, 1)
        say(f"catch_up(through='07') from nothing: {measured['catch_up_seconds']:.1f} s")
        time.sleep(CALM)
        measured["idle"] = idle(lab.running.pid, IDLE)
        say("idle with 2 tasks, in percent of a core: " + _percents(measured["idle"]))
        measured["balancer"] = balancer(lab)
        say(_balancer_line(measured["balancer"]))
    return measured


class _Lab:
    """The session's Lab, with the time to its first answer."""

    def __init__(self) -> None:
        import boto3

        began = time.monotonic()
        self.lab = session.connect(name=NAME)
        boto3.client("sts").get_caller_identity()
        self.first_answer = round(time.monotonic() - began, 2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lab, name)


def idle(region: int, seconds: float) -> dict[str, float]:
    """The CPU that the sandbox's own processes use, without its tasks: percent of one core over so many seconds."""
    parts = _own_processes(psutil.Process(region))
    before = {name: _cpu(process) for name, process in parts.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    used = {name: 100 * (_cpu(process) - before[name]) / took for name, process in parts.items()}
    return {name: round(percent, 2) for name, percent in (used | {"total": sum(used.values())}).items()}


def _own_processes(region: psutil.Process) -> dict[str, psutil.Process]:
    own = {"region": region}
    for child in region.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # some only tell their version, and are gone
            if "envoy" in child.name():
                own["envoy"] = child
            elif any(word.endswith("host.py") for word in child.cmdline()):
                own["host"] = child
    return own


def _cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


def balancer(lab: Any) -> dict[str, Any]:
    """Answers a second through the load balancer and from one process of the same app, in turns."""
    from helpers.images import start_command

    app, command = start_command(APP)
    direct = session.run_process(
        app, command, vcpu=2, memory=4096, environment={"WORK_MS": "0", "NODE_ENV": "production"}
    )
    try:
        through = _service(lab)
        node = str(session.find_node().path)
        sides = {"direct": direct.address, "balancer": through}
        for address in sides.values():
            _round(node, address, WARM_UP)
        rounds = [
            {side: _round(node, address, ROUND) for side, address in sides.items()} for _ in range(ROUNDS)
        ]
    finally:
        direct.kill()
        direct.poll()
    return shares(rounds)


def shares(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Of rounds {side: {answered, failed, seconds}}: answers a second as medians, and the median of their ratios."""
    rates = [{side: one["answered"] / one["seconds"] for side, one in turn.items()} for turn in rounds]
    return {
        "connections": CONNECTIONS,
        "direct_per_second": round(median(rate["direct"] for rate in rates)),
        "balancer_per_second": round(median(rate["balancer"] for rate in rates)),
        "share": round(median(rate["balancer"] / rate["direct"] for rate in rates), 2),
        "failed": int(sum(one["failed"] for turn in rounds for one in turn.values())),
    }


def _round(node: str, address: tuple[str, int], seconds: float) -> dict[str, float]:
    host, port = address
    command = [node, str(GENERATOR), host, str(port), str(CONNECTIONS), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode:
        raise TutorialError("The requests could not be made.", seen=done.stderr.strip()[-500:])
    return json.loads(done.stdout)


def _service(lab: Any) -> tuple[str, int]:
    """One large task of the app behind a load balancer of its own; its address."""
    import boto3

    from helpers.images import build_image, push_image
    from helpers.services import Service

    ecr, ecs, elbv2, ec2 = (boto3.client(name) for name in ("ecr", "ecs", "elbv2", "ec2"))
    fast = f"{NAME}-fast"
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    uri = ecr.create_repository(repositoryName=fast)["repository"]["repositoryUri"]
    front = elbv2.create_load_balancer(Name=fast, Subnets=subnets)["LoadBalancers"][0]
    group = elbv2.create_target_group(
        Name=fast,
        Protocol="HTTP",
        Port=3000,
        TargetType="ip",
        VpcId=ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
        HealthCheckPath="/healthcheck",
        HealthyThresholdCount=2,
    )["TargetGroups"][0]["TargetGroupArn"]
    elbv2.create_listener(
        LoadBalancerArn=front["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    ecs.create_cluster(clusterName=fast)
    ecs.register_task_definition(
        family=fast,
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        executionRoleArn="arn:aws:iam::123456789012:role/ecsTaskExecutionRole",
        **TASK,
        containerDefinitions=[
            {
                "name": "app",
                "image": push_image(build_image(APP, "fast"), uri),
                "essential": True,
                "portMappings": [{"containerPort": 3000}],
                "environment": [{"name": "WORK_MS", "value": "0"}],
            }
        ],
    )
    ecs.create_service(
        cluster=fast,
        serviceName=fast,
        taskDefinition=fast,
        desiredCount=1,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": subnets}},
        loadBalancers=[{"targetGroupArn": group, "containerName": "app", "containerPort": 3000}],
    )
    Service(fast, fast).until_steady()
    host, _, port = front["DNSName"].partition(":")
    return host, int(port)


# --- what is printed --------------------------------------------------------------------------------------------------


def journey_table(notebooks: dict[str, dict[str, float]], total: float) -> list[str]:
    """A line per notebook, real seconds."""
    sums = {part: sum(parts[part] for parts in notebooks.values()) for part in PARTS}
    between = dict.fromkeys(PARTS, 0.0) | {"rest": max(0.0, total - sum(sums.values()))}
    rows = [*notebooks.items(), ("between notebooks", between), ("in all", _added(sums, between))]
    head = f"{'real seconds':<40}" + "".join(f"{part:>9}" for part in PARTS) + f"{'all':>9}"
    return [head] + [
        f"{name:<40}" + "".join(f"{parts[part]:>9.1f}" for part in PARTS) + f"{sum(parts.values()):>9.1f}"
        for name, parts in rows
    ]


def _added(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {part: one[part] + other[part] for part in PARTS}


def calls_table(calls: list[dict[str, Any]], most: int = 12) -> list[str]:
    """The slowest operations; an arrow at those beyond the goal."""
    lines = [f"{'AWS call, the slowest':<52}{'calls':>7}{'median ms':>11}{'longest':>9}"]
    for one in calls[:most]:
        slow = "  <- slow" if one["median_ms"] > GOALS["call_median_ms"] else ""
        name = f"{one['service']} {one['operation']}"
        lines.append(f"{name:<52}{one['calls']:>7}{one['median_ms']:>11.1f}{one['longest_ms']:>9.0f}{slow}")
    return lines


def summary(measured: dict[str, Any]) -> list[str]:
    """A line per goal, for what could be measured."""
    lines = []
    if "journey" in measured:
        slow = [one for one in measured["calls"] if one["median_ms"] > GOALS["call_median_ms"]]
        lines.append(
            _line("the whole journey", measured["journey"]["seconds"], GOALS["journey_seconds"], "s")
        )
        named = ", ".join(f"{one['service']} {one['operation']}" for one in slow) or "none"
        lines.append(f"AWS calls with a median over {GOALS['call_median_ms']} ms: {named}")
    if "balancer" in measured:
        share = measured["balancer"]["share"]
        lines.append(
            f"requests through the balancer: {share:g} of direct (goal: at least {GOALS['balancer_share']:g})"
        )
    if "idle" in measured:
        goal = GOALS["idle_percent_of_a_core"]
        lines.append(_line("idle with 2 tasks", measured["idle"]["total"], goal, "% of a core"))
    if "catch_up_seconds" in measured:
        goal = GOALS["catch_up_seconds"]
        lines.append(_line("catch_up(through='07') from nothing", measured["catch_up_seconds"], goal, "s"))
        lines.append(f"first answer after a start: {measured['first_answer_seconds']:g} s")
    return lines


def _line(what: str, value: float, goal: float, unit: str) -> str:
    return f"{what}: {value:g} {unit} (goal: under {goal:g})"


def _percents(used: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent:.1f}" for name, percent in used.items())


def _balancer_line(found: dict[str, Any]) -> str:
    return (
        f"answers a second: {found['balancer_per_second']:,} through the balancer, {found['direct_per_second']:,} direct, "
        f"a share of {found['share']:.2f}; {found['failed']} failed"
    )
