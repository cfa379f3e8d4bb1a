"""Rules of the app: what it says, how it ends, and how it treats connections."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from helpers.diagnosis import fargate, fixes
from helpers.diagnosis.facts import Evidence, short, words
from helpers.diagnosis.finding import LIKELY, NOTED, POSSIBLE, PROVEN, SHOWN, Finding
from helpers.diagnosis.image import FORMAT
from helpers.failures import is_failure

TASK = "AWS::ECS::TaskDefinition"
NO_COMMAND = (
    r"executable file not found|stat \S+: no such file or directory|exec: \"[^\"]+\": |"
    r"exec \S+: no such file or directory"
)
NOT_FOUND = r"(: |^)(command )?not found$|Cannot find module '[^']+'|can't open file"
OOM = r"OutOfMemory|killed due to memory"
HEAP = r"heap out of memory|Allocation failed"
KILLED, NOT_THERE, NOT_EXECUTABLE = 137, 127, 126
FEW = 3  # 502s that may be chance
AROUND = timedelta(minutes=3)  # of a task's end, in which 502s may come from it


def app_exits(e: Evidence) -> list[Finding]:
    tasks = [
        task
        for task in e.failed_tasks
        if e.exit_code(task) not in (None, KILLED, NOT_THERE, NOT_EXECUTABLE)
        and "health check" not in words(task).lower()
        and task.get("stopCode") in (None, "EssentialContainerExited")
    ]
    if not tasks:
        return []
    task = tasks[-1]
    lines = [line for log in e.logs if log.get("task") == short(task) for line in log.get("lines") or []]
    lines = lines or [line for log in e.logs for line in log.get("lines") or []]
    evidence = [
        f"ecs describe_tasks, {len(tasks)} tasks, the last {short(task)}: exit code {e.exit_code(task)}"
    ]
    group = next((log.get("group") for log in e.logs), "its log")
    evidence += [f"logs get_log_events, {group}: {line.rstrip()}" for line in _telling(lines)]
    cause = f"The app ends by itself, with exit code {e.exit_code(task)}"
    cause += f": {_telling(lines)[-1].strip()}" if lines else ", and its log says nothing"
    other = e.logged(f"{FORMAT}|{HEAP}") or e.said(FORMAT)
    weight = NOTED if other else PROVEN if lines else SHOWN
    fix = "Mend the app, or what it is told (environment, secrets), push the image, and deploy it:\n"
    fix += fixes.new_image(e, "<the new image's URI>")
    decide = fixes.call("logs", "filter_log_events", logGroupName=group)
    return [Finding(_sentence(cause), weight, tuple(evidence), fix, decide)]


def _telling(lines: list[str]) -> list[str]:
    """The line that names the error, if one does; else the last ones."""
    different = list(dict.fromkeys(lines))
    errors = [
        line for line in different if re.search(r"error|exception|fatal|panic|cannot|missing", line, re.I)
    ]
    return errors[:2] or different[-2:]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def command_not_found(e: Evidence) -> list[Finding]:
    said = e.said(NO_COMMAND)
    ended = [t for t in e.failed_tasks if e.exit_code(t) in (NOT_THERE, NOT_EXECUTABLE)]
    if not said and not ended:
        return []
    command = [*(e.container.get("entryPoint") or []), *(e.container.get("command") or [])]
    evidence = list(said)
    evidence += [f"ecs describe_tasks, task {short(t)}: exit code {e.exit_code(t)}" for t in ended[-1:]]
    evidence += e.logged(f"{NO_COMMAND}|{NOT_FOUND}|no such file or dir", 2)
    if command:
        evidence.append(f"ecs describe_task_definition, entryPoint and command: {command}")
    what = f" {' '.join(command)}" if command else ", given by the image's CMD,"
    cause = f"The command{what} is not in the image (exit code {NOT_THERE} says the same)."
    if not said and {e.exit_code(t) for t in ended} == {NOT_EXECUTABLE}:
        cause = (
            f"The command{what} is in the image and cannot be executed (exit code {NOT_EXECUTABLE}): its executable bit is "
            "missing, or its first line is wrong."
        )
    fix = fixes.diff(
        e,
        TASK,
        "Command: [<a program of the image>, <its arguments>]",
        removed="Command:",
        after="Image:",
    )
    if command and not fixes.in_template(e, TASK, "Command:"):
        fix = (
            "Register the task definition without this command, so that the image's own CMD is used, and deploy it:\n"
            + fixes.call(
                "ecs",
                "update_service",
                cluster=e.cluster,
                service=e.service_name,
                taskDefinition="<family>:<revision>",
            )
        )
    return [Finding(cause, PROVEN, tuple(evidence), fix)]


def out_of_memory(e: Evidence) -> list[Finding]:
    said = e.said(OOM)
    heap = e.logged(HEAP)
    killed = [
        t
        for t in e.failed_tasks
        if e.exit_code(t) == KILLED and "health check" not in words(t).lower() and t.get("startedAt", True)
    ]
    definition = e.one("task_definition")
    memory = str(e.container.get("memory") or definition.get("memory") or "")
    if not said and not heap and not killed:
        return []
    evidence = [*said, *heap]
    evidence += [f"ecs describe_tasks, task {short(t)}: exit code {KILLED} (SIGKILL)" for t in killed[-1:]]
    if memory:
        evidence.append(f"ecs describe_task_definition: memory {memory} MiB")
    fix = _more_memory(e)
    weight = PROVEN if said or heap else LIKELY if len(killed) > 1 else POSSIBLE
    cause = f"The app takes more than its {memory or 'allowed'} MiB of memory, and is killed."
    if heap and not said:
        cause = "Node.js reaches its own heap's limit, which follows the task's memory, and ends."
    decide = fixes.call(
        "cloudwatch",
        "get_metric_statistics",
        Namespace="AWS/ECS",
        MetricName="MemoryUtilization",
        Dimensions=[
            {"Name": "ClusterName", "Value": e.cluster},
            {"Name": "ServiceName", "Value": e.service_name},
        ],
        Statistics=["Maximum"],
        Period=60,
    )
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def _more_memory(e: Evidence) -> str:
    definition = e.one("task_definition")
    cpu, memory = str(definition.get("cpu") or ""), str(definition.get("memory") or "")
    own = str(e.container.get("memory") or "")
    if own.isdigit() and (
        not memory.isdigit() or int(own) < int(memory)
    ):  # the container's limit, in the task's
        more = min(2 * int(own), int(memory)) if memory.isdigit() else 2 * int(own)
        return fixes.diff(e, TASK, f"Memory: {more}", removed="Memory:")
    if not memory.isdigit():
        return fixes.diff(e, TASK, "Memory: '<more>'", removed="Memory:")
    if not cpu.isdigit() or int(cpu) not in fargate.SIZES:
        return fixes.diff(e, TASK, f"Memory: '{2 * int(memory)}'", removed="Memory:")
    size = fargate.next_size(int(cpu), int(memory))
    if size is None:
        return "Fargate has no task with more memory: find what the app keeps, or give each task less to do."
    fix = fixes.diff(e, TASK, f"Memory: '{size[1]}'", removed="Memory:")
    if size[0] == int(cpu):
        return fix
    _, _, *lines = fixes.diff(e, TASK, f"Cpu: '{size[0]}'", removed="Cpu:").splitlines()
    return "\n".join([fix, *lines])


def sigterm_lost(e: Evidence) -> list[Finding]:
    """A task that was asked to end and had to be killed: wanted stops with exit code 137, of the app's own container."""
    lost = [
        t
        for t in e.many("stopped")
        if _exit_code_of_the_app(e, t) == KILLED
        and not is_failure(t)
        and t.get("stopCode") in ("ServiceSchedulerInitiated", "UserInitiated", None)
        and t.get("taskDefinitionArn") in (e.service.get("taskDefinition"), _newest(e))
    ]
    if not lost:
        return []
    count = _count(e, "HTTPCode_ELB_502_Count") + _count(e, "HTTPCode_ELB_504_Count")
    others = _others(e)
    patience = e.container.get("stopTimeout") or 30
    evidence = [
        f"ecs describe_tasks, {len(lost)} tasks, the last {short(lost[-1])}: {lost[-1].get('stoppedReason', '')}, "
        f"exit code {KILLED} (SIGKILL, after stopTimeout {patience} s)"
    ]
    if count:
        evidence.append(
            f"cloudwatch get_metric_data, HTTPCode_ELB_502_Count and 504: {count:.0f} in the last hour"
            + (f", of the load balancer, which {others} other target groups share" if others else "")
        )
    cause = (
        "The app does not end when SIGTERM comes: it goes on until ECS kills it after stopTimeout, and what it was doing "
        "is lost."
    )
    fix = (
        "--- server.js\n+++ server.js\n"
        "+process.on('SIGTERM', () => server.close(() => process.exit(0)));\n"
        "and in the Dockerfile, so that Node.js and not npm or a shell gets the signal:\n"
        '-CMD npm start\n+CMD ["node", "server.js"]\n'
        "or, where its requests take longer than that, a larger StopTimeout (on Fargate 120 s at most)"
    )
    weight = PROVEN if count and not others else SHOWN if e.balanced else NOTED
    return [Finding(cause, weight, tuple(evidence), fix)]


def _exit_code_of_the_app(e: Evidence, task: dict) -> int | None:
    """Of the container that the load balancer asks; without one, of the one that ended the task."""
    named = e.balanced.get("containerName")
    codes = [c.get("exitCode") for c in task.get("containers") or [] if c.get("name") == named]
    return codes[0] if codes else e.exit_code(task)


def _others(e: Evidence) -> int:
    """Target groups of the same load balancer that are not this service's: its 502s may be theirs."""
    own = {b.get("targetGroupArn") for b in e.service.get("loadBalancers") or []}
    return len([g for g in e.many("balancer_groups") if g.get("TargetGroupArn") not in own])


def keep_alive(e: Evidence) -> list[Finding]:
    """502s though every target is well and no task was killed: connections that the app closes first."""
    count = _count(e, "HTTPCode_ELB_502_Count", apart=True)
    if count < FEW or not e.service:
        return []
    idle = e.one("balancer_attributes").get("idle_timeout.timeout_seconds") or "60"
    evidence = [
        f"cloudwatch get_metric_data, HTTPCode_ELB_502_Count: {count:.0f}, in minutes in which no task ended"
    ]
    well = not e.unwell and not e.failed_tasks
    if well:
        evidence.append(
            "elbv2 describe_target_health, ecs describe_tasks: no target is unwell, no task failed"
        )
    evidence.append(f"elbv2 describe_load_balancer_attributes: idle_timeout.timeout_seconds {idle}")
    others = _others(e)
    if others:
        evidence.append(
            f"elbv2 describe_target_groups: {others} others share the load balancer, and its count"
        )
    weight = NOTED if sigterm_lost(e) or not well or others else LIKELY
    seconds = int(idle) + 5 if str(idle).isdigit() else 65
    cause = (
        f"The app closes idle connections before the load balancer does ({idle} s): a request that comes at that moment "
        # 65 s in later ones: https://github.com/nodejs/node/pull/62782, which is not in 26.0.0's list of changes.
        "is answered 502. Up to Node.js 25 a server's keepAliveTimeout is 5 s unless it is set."
    )
    fix = (
        "--- server.js\n+++ server.js\n"
        f"+server.keepAliveTimeout = {seconds}_000;  // longer than the load balancer's idle timeout\n"
        f"+server.headersTimeout = {seconds + 1}_000;"
    )
    decide = "the load balancer's access log: elb_status_code 502 with target_status_code -"
    return [Finding(cause, weight, tuple(evidence), fix, decide)]


def _count(e: Evidence, metric: str, *, apart: bool = False) -> float:
    """Requests answered so in the last hour; `apart`: those alone in whose minutes no task came to an end."""
    ends = [t.get("stoppingAt") or t.get("stoppedAt") for t in e.many("stopped")]
    points = e.one("metrics").get(metric) or []
    return sum(
        point.get("value") or 0
        for point in points
        if not apart or not any(_near(point.get("time"), end) for end in ends)
    )


def _near(minute: datetime | None, end: datetime | None) -> bool:
    return bool(minute and end) and abs(minute - end) < AROUND


def _newest(e: Evidence) -> str | None:
    return e.primary.get("taskDefinition")
