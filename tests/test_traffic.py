"""Locust, really run, against a small HTTP server that counts for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from helpers import session, traffic
from helpers.errors import LoadFailed, TutorialError
from helpers.report import AwsTime, Record, Report, Span
from helpers.traffic import Phase, load, saturate
from tests.lab import StubLab
from tests.waiting import until


class Server(ThreadingHTTPServer):
    """Answers two requests at a time, 10 ms each: 200 a second and no more; counts them."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.served, self.refused, self.refusing = 0, 0, False
        self.lock, self.busy = threading.Lock(), threading.Semaphore(2)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        with self.server.busy:
            time.sleep(0.01)
        with self.server.lock:
            refused = self.server.refusing
            self.server.refused += refused
            self.server.served += not refused
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def lab(monkeypatch):
    lab = StubLab(speed=60)
    monkeypatch.setattr(session, "current", lambda: lab)
    return lab


def locusts(parent: int | None = None) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if runs(child) and "locust" in " ".join(child.cmdline()):
                found.append(child)
    return found


def runs(process: psutil.Process) -> bool:
    """Whoever inherits a zombie here may be slow to bury it: it does nothing any more."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_counts_what_the_server_counts(server, lab):
    started = time.monotonic()
    report = load(
        server.url, [Phase(2, 20, "calm"), Phase(2, 100, "more"), Phase(2, 0, "none"), Phase(1, 20, "again")]
    )
    took = time.monotonic() - started  # an AWS minute is a real second
    assert report.requests == report.served == server.served
    assert report.failed == 0
    calm, _, none, again = report.phases.to_dict("records")
    assert calm["offered"] == pytest.approx(20, rel=0.02)
    assert report.during("calm").median_rate == pytest.approx(20, rel=0.15)
    assert report.during("more").median_rate == pytest.approx(100, rel=0.15)
    assert none["served"] < 20  # the pace changes within a tenth of a second, and bins are half a second
    assert 1 - 0.05 <= again["minutes"] <= took
    assert not locusts()


def test_the_frame_is_tidy_and_adds_up_to_the_total(server, lab):
    before = lab.now()
    report = load(server.url, [Phase(4, 40)])
    frame = report.frame
    assert list(frame.columns) == ["time", "metric", "value"]
    assert str(frame["time"].dt.tz) == "UTC"
    assert before <= report.start <= report.end <= lab.now()
    served = frame[frame["metric"] == "RequestsServed"]["value"]
    assert served.sum() == pytest.approx(report.served, abs=25)  # the last answers come after the last bucket
    p50 = frame[frame["metric"] == "LatencyP50"]["value"]
    assert 10 <= p50.median() <= 100


def test_saturation_shows_as_throughput_and_latency_and_not_as_failure(server):
    """By medians: a run that lost most of its three seconds showed 76 requests a second where 189 are carried."""
    calibrated = saturate(server.url, 4, users=20)
    assert 100 < calibrated.median_rate <= 210
    assert calibrated.p50 == pytest.approx(20 / calibrated.median_rate * 1000, rel=0.2)
    assert calibrated.failed == 0
    report = load(server.url, [Phase(8, calibrated.median_rate * 1.43)])
    assert report.median_rate == pytest.approx(calibrated.median_rate, rel=0.25)
    assert 100 < report.p50 < 1000
    assert report.failed == 0


def test_failed_requests_are_counted_and_named(server):
    server.refusing = True
    report = load(server.url, [Phase(1, 20)])
    assert (report.served, report.failed) == (0, server.refused)
    assert report.failures.to_dict("records") == [{"message": "HTTP 503", "count": server.refused}]
    assert "nothing was served" in repr(report)


def test_until_ends_a_phase_and_watch_is_told(server):
    told = []
    report = load(
        server.url,
        [Phase(rate=20, name="hold", until=lambda progress: progress.minutes > 2, at_most=30)],
        watch=told.append,
    )
    assert report.minutes >= 2
    assert all(progress.minutes <= 2 for progress in told[:-1])  # it ended as soon as it was to
    assert [progress.phase for progress in told] == ["hold"] * len(told)
    assert told[-1].report.requests > 0


def test_an_action_is_called_once_when_its_phase_begins_while_visitors_go_on(server):
    called, during = [], []

    def action():
        called.append(server.served)
        until(lambda: server.served > called[0] + 10, 10)

    phases = [Phase(1, 40, "before"), Phase(2, 40, "event", action=action), Phase(1, 40, "after")]
    started = time.monotonic()
    report = load(server.url, phases, watch=lambda progress: during.append(progress.phase))
    took = time.monotonic() - started  # an AWS minute is a real second
    assert len(called) == 1
    assert called[0] > 0  # the phase before has been served
    assert [span.name for span in report.spans] == ["before", "event", "after"]
    assert report.served == server.served
    assert 2 - 0.05 <= report.during("event").minutes <= took


def test_what_an_action_raises_ends_the_load(server):
    def action():
        raise TutorialError("There is no such task.")

    with pytest.raises(TutorialError, match="no such task"):
        load(server.url, [Phase(1, 20), Phase(30, 20, action=action)])
    assert not locusts()


def test_what_is_raised_while_it_runs_ends_locust(server):
    def interrupted(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(server.url, [Phase(30, 20)], watch=interrupted)
    assert not locusts()


def test_a_killed_parent_takes_locust_along(server):
    code = (
        "from helpers import session, traffic; from tests.lab import StubLab\n"
        "session.current = StubLab\n"
        f"traffic.load({server.url!r}, [traffic.Phase(60, 20)])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    try:
        until(lambda: server.served > 5, 20)
        orphans = locusts(parent.pid)
        assert orphans
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not [process for process in alive if runs(process)]


def test_locust_ends_by_itself_when_its_time_is_over(server, tmp_path, monkeypatch):
    monkeypatch.setattr(traffic, "START_WITHIN", 2.0)
    monkeypatch.setattr(traffic, "STOP_WITHIN", 0.0)
    locust = traffic._Locust(tmp_path, server.url, Phase(1, 10), seconds=1)
    try:
        assert locust.process.wait(15) == 3
    finally:
        locust.end()


def test_a_locust_that_does_not_start_says_why(server, monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no visitors today')")
    monkeypatch.setattr(traffic, "LOCUSTFILE", broken)
    with pytest.raises(LoadFailed, match="no visitors today"):
        load(server.url, [Phase(1, 10)])
    assert not locusts()


@pytest.mark.parametrize(
    "url", ["http://example.com/", "http://10.0.0.1", "http://127.0.0.1.example.com", "ftp://localhost", "x"]
)
def test_the_sandbox_loads_nothing_but_itself(url):
    with pytest.raises(TutorialError):
        load(url, [Phase(1, 1)])


@pytest.mark.parametrize("phases", [[], [Phase(1, 2001)], [Phase(1, -1)], [Phase(0, 1)]])
def test_phases_that_make_no_sense_are_refused(phases):
    with pytest.raises(TutorialError):
        load("http://127.0.0.1:1/", phases)


class Balancers:
    def get_paginator(self, _):
        return self

    def paginate(self):
        return [{"LoadBalancers": [{"DNSName": "Mine-1.us-east-1.elb.amazonaws.com"}]}]


def test_on_aws_only_ones_own_load_balancers_are_loaded(lab, monkeypatch):
    monkeypatch.setattr("boto3.client", lambda name: Balancers())
    traffic._refuse_what_is_not_yours("http://mine-1.us-east-1.elb.amazonaws.com/", "aws")
    with pytest.raises(TutorialError, match=r"no load balancer of this account"):
        traffic._refuse_what_is_not_yours("http://theirs.us-east-1.elb.amazonaws.com/", "aws")


def test_on_aws_a_load_is_bounded_but_quiet_is_free():
    traffic._refuse_too_much([Phase(60, 100), Phase(120, 0)], "aws")
    with pytest.raises(TutorialError, match="at most 90 minutes"):
        traffic._refuse_too_much([Phase(91, 100)], "aws")


# The report, from a record worked out by hand: real seconds 100–102 calm, 102–104 busy; a real second is 30 of AWS's.


@pytest.fixture
def by_hand() -> Report:
    record = Record()
    for line in (
        {"start": 100.0},
        {"at": 100.0, "users": 1, "each": 4.0},
        {"bin": 0, "ms": [10, 20], "failed": {}},
        {"bin": 2, "ms": [30, 40], "failed": {}},
        {"bin": 6, "ms": [50], "failed": {"HTTP 503": 2}},
        {"at": 102.5, "users": 2, "each": 5.0},
        {"bin": 8, "ms": [100, 200, 300], "failed": {}},
        {"bin": 14, "ms": [400], "failed": {}},
        {"bin": 16, "ms": [900], "failed": {}},
        {"stopped": 104.3},
    ):
        record.add(line)
    spans = (Span("calm", 100, 102, 102), Span("busy", 102, 104, float("inf")))
    return Report("http://x", record, AwsTime(90.0, 1_000_000.0, 30.0), spans, "sandbox", "process")


def test_totals_by_hand(by_hand):
    assert (by_hand.requests, by_hand.served, by_hand.failed) == (12, 10, 2)
    assert by_hand.rate == 9 / 4  # the last answer came after the end
    assert by_hand.p50 == 75  # halfway between the fifth and the sixth of ten
    assert by_hand.p95 == pytest.approx(
        400 + 0.55 * 500
    )  # at 0.95 × 9 = 8.55 between the ninth and the tenth
    assert by_hand.minutes == 2
    assert repr(by_hand) == (
        "12 requests in 2 AWS minutes, 2 failed; 2.2 served a second; p50 75 ms, p95 675 ms"
    )


def test_aws_time_by_hand(by_hand):
    assert by_hand.start.timestamp() == 1_000_000 + 10 * 30
    assert by_hand.end.timestamp() == 1_000_000 + 14 * 30
    assert by_hand.clock.real_at(by_hand.clock.at(123.0)) == 123.0


def test_phases_by_hand(by_hand):
    calm, busy = by_hand.phases.to_dict("records")
    assert (calm["offered"], calm["served"], calm["failed"], calm["p50"]) == (4, 2.5, 2, 30)
    assert (busy["offered"], busy["served"], busy["failed"], busy["p50"]) == (
        (4 * 0.5 + 10 * 1.5) / 2,
        2,
        0,
        250,
    )


def test_a_hiccup_of_this_machine_is_not_the_services():
    """What a service carries is asked in one real second; half a second in which nothing ran at all must not halve it."""
    record = Record()
    record.add({"start": 100.0})
    for number, served in enumerate([18, 19, 18, 0, 0, 18, 19, 18]):
        record.add({"bin": number, "ms": [200.0] * served, "failed": {}})
    span = Span("flat out", 100, 102, 102)
    report = Report("http://x", record, AwsTime(90.0, 1_000_000.0, 60.0), (span,), "sandbox", "process")
    assert report.rate == 55
    assert report.median_rate == 72
    nothing = replace(report, spans=(Span("", 102, 104, 104),))
    assert nothing.median_rate == 0


def test_one_phase_by_hand(by_hand):
    assert by_hand.during("calm").served == 5
    assert by_hand.during("busy").served == 5
    with pytest.raises(TutorialError, match="calm, busy"):
        by_hand.during("lunch")


def test_frame_by_hand(by_hand):
    table = by_hand.frame.pivot(index="time", columns="metric", values="value")
    assert list(table["RequestsServed"]) == [4, 1, 3, 1]
    assert list(table["RequestsFailed"]) == [0, 2, 0, 0]
    assert list(table["RequestsOffered"]) == [4, 4, 7, 10]
    assert list(table["LatencyP50"]) == [25, 50, 200, 400]
