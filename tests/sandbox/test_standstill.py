"""AWS time stands still and goes on: the loops that hold, and a whole sandbox that is read in a pause."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from helpers import calls, connection, pauses, sandbox, session
from helpers.errors import SandboxGone, TutorialError
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.standstill import Loop, Standstill
from tests.sandbox.live import Live, Visitors, get, write_app
from tests.sandbox.served import Served, serve
from tests.waiting import until

# Every answer but that to a health check costs 5 ms of CPU, and is written to the log.
BUSY = """
const http = require('node:http');
http.createServer((request, response) => {
  const began = process.cpuUsage();
  const used = () => { const { user, system } = process.cpuUsage(began); return user + system; };
  if (request.url !== '/') {
    while (used() < 5000);
    console.log(request.url);
  }
  response.end('one');
}).listen(process.env.PORT, process.env.HOST);
"""


# ---- the loops ----


def test_a_held_loop_does_only_what_it_has_for_meanwhile():
    clock, done = AwsClock(), []
    loop = Loop("x", lambda: done.append("step"), 0.001, held=lambda: clock.paused)
    loop.meanwhile = lambda: done.append("meanwhile")
    loop.start()
    until(lambda: "step" in done)
    clock.pause()
    until(lambda: "meanwhile" in done)
    done.clear()
    time.sleep(0.02)
    assert set(done) <= {"meanwhile"}
    clock.resume()
    until(lambda: "step" in done)
    loop.ended.set()
    loop.join(5)


def test_a_loop_goes_on_after_a_step_that_fails(caplog):
    tried = []

    def step():
        tried.append(1)
        raise ValueError("no")

    loop = Loop("x", step, 0.001)
    loop.start()
    until(lambda: len(tried) > 1, seconds=5)
    loop.ended.set()
    loop.join(5)
    assert "a step of x failed; it goes on" in caplog.text


def test_a_pause_waits_for_the_step_that_is_under_way_and_measures_at_once():
    clock, story, busy, free = AwsClock(), [], threading.Event(), threading.Event()

    def step():
        busy.set()
        free.wait(5)
        story.append("step ends")

    slow = Loop("slow", step, 0.001, held=lambda: clock.paused)
    meter = Loop("meter", lambda: None, 0.001, held=lambda: clock.paused)
    standstill = Standstill(
        clock,
        [slow],
        meter,
        hold=lambda: story.append(f"hold, paused: {clock.paused}"),
        go_on=lambda: story.append(f"go on, paused: {clock.paused}"),
        tell=lambda: story.append(f"told, paused: {clock.paused}"),
    )
    slow.start()
    assert busy.wait(5)
    pausing = threading.Thread(target=standstill.pause)
    pausing.start()
    until(lambda: story)
    free.set()
    pausing.join(5)
    standstill.pause()  # a second time changes nothing
    assert story == ["hold, paused: True", "step ends", "told, paused: True"]
    slow.ended.set()
    standstill.resume()
    standstill.resume()
    assert story[3:] == ["go on, paused: True", "told, paused: False"]


def test_a_task_that_cannot_be_measured_does_not_keep_time_from_going_on():
    clock, told = AwsClock(), []

    def fail():
        raise OSError("gone")

    meter = Loop("meter", lambda: None, 1)
    standstill = Standstill(clock, [], meter, hold=fail, go_on=fail, tell=lambda: told.append(clock.paused))
    standstill.pause()
    standstill.resume()
    assert told == [True, False]


# ---- a whole sandbox ----


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    state = tmp_path_factory.mktemp("standstill") / "sandbox"
    yield Live(state, speed=60)
    sandbox.stop(state)


@pytest.fixture(scope="module")
def environment(live) -> dict[str, str]:
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    return environ | {"SANDBOX_STATE": str(live.state)}


@pytest.fixture
def lab(live, environment, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(environment))
    lab = connection.connect()
    yield lab
    with suppress(SandboxGone):
        lab.resume()


@pytest.fixture(scope="module")
def shop(live, environment, tmp_path_factory) -> Served:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(environment))
        image = live.push(write_app(tmp_path_factory.mktemp("busy") / "app", BUSY))
    live.aws("logs").create_log_group(logGroupName="shop")
    options = {"awslogs-group": "shop", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "a"}
    return serve(live, "shop", image, logConfiguration={"logDriver": "awslogs", "options": options})


def metric(live, namespace, name, stat, **dimensions):
    """{minute: value}"""
    points = live.aws("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=live.here.now() - timedelta(hours=1),
        EndTime=live.here.now() + timedelta(minutes=1),
        Period=60,
        Statistics=[stat],
    )["Datapoints"]
    return {point["Timestamp"]: point[stat] for point in sorted(points, key=lambda p: p["Timestamp"])}


def test_what_happens_in_a_pause_is_in_no_metric(live, lab, shop):
    """Busy for two real seconds, which would be two AWS minutes at full CPU; it leaves a trace in the log only."""
    cpu = {"ClusterName": "shop", "ServiceName": "shop"}
    until(lambda: metric(live, "AWS/ECS", "CPUUtilization", "Maximum", **cpu), 20, pause=0.2)
    lab.pause()
    stood, states = lab.now(), shop.targets()
    with Visitors(shop.url + "/in-the-pause", threads=6) as visitors:
        time.sleep(2)
        until(lambda: visitors.seen.total() > 50, 60)
        assert shop.targets() == states == ["healthy"]
    assert set(visitors.seen) == {"one"}
    assert lab.now() == stood == live.here.now()
    time.sleep(1)  # the log is read on
    lines = live.aws("logs").filter_log_events(logGroupName="shop")["events"]
    times = {line["timestamp"] for line in lines if line["message"] == "/in-the-pause"}
    assert times == {round(stood.timestamp() * 1000)}
    lab.resume()
    assert get(shop.url + "/afterwards") == "one"
    balancer = shop.listener.split(":listener/")[1].rsplit("/", 1)[0]
    counted = {"LoadBalancer": balancer}
    until(lambda: metric(live, "AWS/ApplicationELB", "RequestCount", "Sum", **counted), 20, pause=0.2)
    until(lambda: lab.now() > stood + timedelta(minutes=6), 20)
    assert sum(metric(live, "AWS/ApplicationELB", "RequestCount", "Sum", **counted).values()) == 1
    used = metric(live, "AWS/ECS", "CPUUtilization", "Maximum", **cpu)
    around = [value for minute, value in used.items() if stood - timedelta(minutes=2) < minute]
    assert len(around) >= 3
    assert max(around) < 15, used
    minutes = list(used)
    gaps = {(later - sooner).total_seconds() for sooner, later in itertools.pairwise(minutes)}
    assert gaps == {60.0}
    assert shop.targets() == ["healthy"]
    assert not shop.stopped()


def test_what_is_asked_for_in_a_pause_is_done_afterwards(live, lab, shop):
    cloudformation = live.aws("cloudformation")
    with lab.paused():
        assert lab.is_paused
        live.aws("ecs").update_service(cluster="shop", service="shop", desiredCount=2)
        template = "Resources: {P: {Type: AWS::SSM::Parameter, Properties: {Type: String, Value: x}}}"
        cloudformation.create_stack(StackName="p", TemplateBody=template)
        time.sleep(0.5)
        described = shop.describe()
        assert (described["desiredCount"], described["runningCount"]) == (2, 1)
        assert (
            cloudformation.describe_stacks(StackName="p")["Stacks"][0]["StackStatus"] == "CREATE_IN_PROGRESS"
        )
        assert not live.aws("ssm").describe_parameters()["Parameters"]
    assert not lab.is_paused
    live.until(lambda: shop.is_steady() and shop.describe()["runningCount"] == 2)
    live.until(
        lambda: cloudformation.describe_stacks(StackName="p")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
    )


def test_waiting_in_a_pause_says_so_and_what_to_do(lab, shop, capsys):
    from helpers.traffic import Phase, load

    lab.pause()
    lab.pause()
    assert capsys.readouterr().out.count("lab.resume() lets it go on") == 2
    with pytest.raises(TutorialError, match=r"(?s)AWS time is paused.*lab.resume\(\)"):
        for _ in calls.polls(60):
            pass
    with pytest.raises(TutorialError, match=r"(?s)AWS time is paused.*lab.resume\(\)"):
        load(shop.url, [Phase(1, rate=1)])
    lab.resume()
    lab.resume()
    assert re.fullmatch(
        r"AWS time goes on from 20[-0-9]+ [:0-9]+ UTC.\nAWS time was not paused. It is 20[-0-9]+ [:0-9]+ UTC.\n",
        capsys.readouterr().out,
    )
    assert next(calls.polls(60)) is None


def test_a_forgotten_pause_is_told_everywhere(lab, live, environment, capsys):
    lab.pause()
    assert "AWS time is paused" in repr(lab).replace("\n  ", " ")
    capsys.readouterr()
    again = connection.connect()
    assert "lab.resume() lets it go on" in capsys.readouterr().out
    assert (again.running, again.is_paused) == (lab.running, True)
    lab.ensure_there()
    command = [sys.executable, "-m", "helpers", "status"]
    told = subprocess.run(
        command, env=environment, cwd=session.CHECKOUT, capture_output=True, text=True, timeout=60
    )
    assert f"AWS time is paused: it stands at {lab.now():%Y-%m-%d %H:%M:%S}" in told.stdout, told
    again.resume()
    assert not lab.is_paused
    assert "paused" not in repr(lab)


def test_a_task_killed_in_a_pause_is_replaced_afterwards(lab, live, shop):
    (task, *_) = live.aws("ecs").list_tasks(cluster="shop")["taskArns"]
    lab.pause()
    lab.kill_task(task)
    time.sleep(0.3)
    assert shop.describe()["runningCount"] == 2
    lab.resume()
    live.until(lambda: task in [one["taskArn"] for one in shop.stopped()] and shop.is_steady())


def test_a_paused_sandbox_can_be_stopped(live, lab):
    lab.pause()
    assert sandbox.stop(live.state)
    assert sandbox.tail(live.state, 1).endswith(" ended")  # by itself: it did not have to be killed
    with pytest.raises(TutorialError, match="has ended"):
        lab.ensure_there()
    assert lab.now() < live.here.now() + timedelta(days=1)  # it still answers


def test_a_paused_sandbox_still_ends_when_nobody_asks_anything(tmp_path):
    state = tmp_path / "sandbox"
    code = "import sys, helpers.sandbox.__main__ as sandbox; sandbox.IDLE = 5; sandbox.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--state", str(state), "--speed", "60"]
    process = subprocess.Popen(command, cwd=session.CHECKOUT, stderr=subprocess.DEVNULL)
    try:
        here = until(lambda: sandbox.attach(state), 30)
        pauses.pause("sandbox", here.endpoint)
        assert here.latest().paused
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert sandbox.attach(state) is None
