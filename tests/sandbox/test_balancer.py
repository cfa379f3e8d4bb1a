"""The load balancer answers and judges as aws-facts has it: real Envoy, real HTTP servers, moto's records."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.balancer import Balancer
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.elb.paths import Network
from helpers.sandbox.endpoint import Endpoint
from tests.waiting import until

REGION = "us-east-1"
INTERVAL = 5  # AWS seconds between health checks: a sixth of a real one
names = count(1)


class App(ThreadingHTTPServer):
    """A target. Answers with its name; /hang waits for `release`; /reset and /garbage misbehave."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.health_status = 200
        self.health_delay = 0.0
        self.release = threading.Event()
        self.seen: list[dict[str, str]] = []  # the headers of each request, and "path"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        pass  # a cut connection is what some tests are about

    def close(self) -> None:
        """As a process's end does: no new connections, and the open ones are cut."""
        self.release.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: App

    def do_GET(self) -> None:
        app = self.server
        app.seen.append({"path": self.path} | {name.lower(): value for name, value in self.headers.items()})
        if self.path == "/reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if self.path == "/garbage":
            self.wfile.write(b"what is this\r\n\r\n")
            self.close_connection = True
            return
        status = 200
        if self.path == "/health":
            time.sleep(app.health_delay)
            status = app.health_status
        if self.path.startswith("/status/"):
            status = int(self.path[-3:])
        if self.path == "/hang":
            app.release.wait(60)
        body = b"" if status == 204 else app.name.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Region:
    """moto's ELBv2 with the balancer in front of it, and what a test does again and again."""

    def __init__(self, state, network: Callable[[Region], Network] | None = None) -> None:
        self.clock = AwsClock(speed=30)
        self.endpoint = Endpoint()
        self.endpoint.start()
        self.addresses: dict[tuple[str, int], tuple[str, int]] = {}  # what the task records would know
        self.balancer = Balancer(
            state,
            self.clock,
            self.endpoint.client,
            self.endpoint.changes,
            lambda ip, port: self.addresses.get((ip, port)),
            network=network and network(self),
        )
        self.endpoint.add(self.balancer.operations())
        self.balancer.start()
        self.elbv2 = self.endpoint.client("elbv2", REGION)
        ec2 = self.endpoint.client("ec2", REGION)
        self.subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
        self.vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]

    def close(self) -> None:
        self.balancer.stop()
        self.endpoint.stop()

    def site(self, **target_group) -> Site:
        return Site(self, **target_group)

    def until(self, claim: Callable[[], object], within: float = 10.0) -> None:
        """Step as the sandbox's loop does until the claim holds."""
        until(lambda: claim() or self.balancer.step(), within)


class Site:
    """One load balancer with a listener on port 80, its target group, and its targets."""

    def __init__(self, region: Region, **target_group):
        self.region, self.apps = region, []
        name = f"site-{next(names)}"
        self.elbv2 = region.elbv2
        settings = {
            "Protocol": "HTTP",
            "Port": 3000,
            "VpcId": region.vpc,
            "TargetType": "ip",
            "HealthCheckPath": "/health",
            "HealthCheckIntervalSeconds": INTERVAL,
            "HealthCheckTimeoutSeconds": 2,
            "HealthyThresholdCount": 2,
            "UnhealthyThresholdCount": 2,
        }
        created = self.elbv2.create_load_balancer(Name=name, Subnets=region.subnets)["LoadBalancers"][0]
        self.arn, self.dns_name = created["LoadBalancerArn"], created["DNSName"]
        self.name = name
        group = self.elbv2.create_target_group(Name=name, **(settings | target_group))
        self.group = group["TargetGroups"][0]["TargetGroupArn"]
        self.set_delay(30)
        self.listener = self.listen(80)

    def set_delay(self, aws_seconds: int) -> None:
        self.set_attribute("deregistration_delay.timeout_seconds", aws_seconds)

    def set_attribute(self, key: str, value: object) -> None:
        attributes = [{"Key": key, "Value": str(value)}]
        self.elbv2.modify_target_group_attributes(TargetGroupArn=self.group, Attributes=attributes)

    def listen(self, port: int, action: dict | None = None) -> str:
        action = action or {"Type": "forward", "TargetGroupArn": self.group}
        made = self.elbv2.create_listener(
            LoadBalancerArn=self.arn, Protocol="HTTP", Port=port, DefaultActions=[action]
        )
        return made["Listeners"][0]["ListenerArn"]

    def add(self, app: App | None = None, ip: str | None = None) -> App:
        app = app or App(f"app-{next(names)}")
        app.ip = ip or f"172.31.0.{next(names) % 250}"
        self.apps.append(app)
        self.region.addresses[app.ip, 3000] = app.server_address
        self.register(app)
        return app

    def healthy(self, number: int) -> list[App]:
        apps = [self.add() for _ in range(number)]
        self.region.until(lambda: all(self.state(app) == "healthy" for app in apps))
        return apps

    def register(self, app: App) -> None:
        self.elbv2.register_targets(TargetGroupArn=self.group, Targets=[{"Id": app.ip, "Port": 3000}])

    def deregister(self, app: App) -> None:
        self.elbv2.deregister_targets(TargetGroupArn=self.group, Targets=[{"Id": app.ip, "Port": 3000}])

    def health(self, app: App | None = None) -> list[dict]:
        asked = {"Targets": [{"Id": app.ip, "Port": 3000}]} if app else {}
        answer = self.elbv2.describe_target_health(TargetGroupArn=self.group, **asked)
        return answer["TargetHealthDescriptions"]

    def words(self, app: App) -> tuple[str, ...]:
        return tuple(self.health(app)[0]["TargetHealth"].values())

    def state(self, app: App) -> str:
        return self.health(app)[0]["TargetHealth"]["State"]

    def get(self, path: str = "/", headers: dict | None = None, dns_name: str | None = None) -> Answer:
        connection = http.client.HTTPConnection(dns_name or self.dns_name, timeout=60)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    def answers(self, status: int) -> bool:
        try:
            return self.get().status == status
        except ConnectionRefusedError:
            return False

    def only_from(self, app: App) -> bool:
        """Whether this app answers the next four requests: Envoy reads what it is told some moments later."""
        return {self.get().body for _ in range(4)} == {app.name}

    def refuses(self) -> bool:
        try:
            self.get()
        except ConnectionRefusedError:
            return True
        return False

    def close(self) -> None:
        for app in self.apps:
            self.region.addresses.pop((app.ip, 3000), None)
            app.close()
        self.elbv2.delete_load_balancer(LoadBalancerArn=self.arn)
        self.elbv2.delete_target_group(TargetGroupArn=self.group)


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: str):
        self.status, self.headers, self.body = status, headers, body


class Background:
    """A call in a thread; `result()` waits for it."""

    def __init__(self, call: Callable[[], object]):
        self._outcome: object = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except Exception as error:  # noqa: BLE001 (handed to the test)
            self._outcome = error

    def result(self):
        self._thread.join(60)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Iterator[Region]:
    region = Region(tmp_path_factory.mktemp("state"))
    yield region
    region.close()


# The load balancer and its listeners


def test_a_load_balancer_is_active_at_a_loopback_address(site):
    (record,) = site.elbv2.describe_load_balancers(Names=[site.name])["LoadBalancers"]
    assert record["State"] == {"Code": "active"}
    assert record["DNSName"] == site.dns_name
    assert site.dns_name.startswith("127.0.0.1:")


def test_without_a_listener_connections_are_refused(site, region):
    region.until(lambda: site.answers(503))
    site.elbv2.delete_listener(ListenerArn=site.listener)
    region.until(site.refuses)
    site.listen(80)
    region.until(lambda: site.answers(503))


def test_without_a_registered_target_the_answer_is_the_load_balancers_own_503(site, region):
    region.until(lambda: site.answers(503))
    answer = site.get()
    assert answer.headers["server"] == "awselb/2.0"
    assert answer.headers["content-type"] == "text/html"
    assert "<h1>503 Service Temporarily Unavailable</h1>" in answer.body


def test_each_further_listener_has_a_port_of_its_own(site, region):
    fixed = {"StatusCode": "418", "ContentType": "text/plain", "MessageBody": "short and stout"}
    site.listen(8080, {"Type": "fixed-response", "FixedResponseConfig": fixed})
    region.until(lambda: site.answers(503))
    port = region.balancer.ports()[f"{REGION}/{site.name}:8080"]
    answer = site.get(dns_name=f"127.0.0.1:{port}")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (
        418,
        "short and stout",
        "text/plain",
    )


def test_an_action_that_is_not_made_says_so(site, region):
    site.listen(8081, {"Type": "redirect", "RedirectConfig": {"Port": "443", "StatusCode": "HTTP_301"}})
    region.until(lambda: site.answers(503))
    port = region.balancer.ports()[f"{REGION}/{site.name}:8081"]
    assert site.get(dns_name=f"127.0.0.1:{port}").status == 501


def test_a_target_group_in_use_cannot_be_deleted(site):
    with pytest.raises(ClientError) as refused:
        site.elbv2.delete_target_group(TargetGroupArn=site.group)
    assert refused.value.response["Error"]["Code"] == "ResourceInUse"


def test_a_modified_listener_sends_to_the_other_target_group_on_open_connections(new_site, region):
    one, other = new_site(), new_site()
    (old,), (new,) = one.healthy(1), other.healthy(1)
    connection = http.client.HTTPConnection(one.dns_name, timeout=5)

    def served_by() -> str:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()

    assert served_by() == old.name
    action = [{"Type": "forward", "TargetGroupArn": other.group}]
    one.elbv2.modify_listener(ListenerArn=one.listener, DefaultActions=action)
    region.until(lambda: served_by() == new.name)
    connection.close()


# What the target is sent


def test_the_target_sees_who_asked_as_behind_an_alb(site):
    (app,) = site.healthy(1)
    assert site.get("/who", {"X-Forwarded-For": "203.0.113.7"}).status == 200
    (seen,) = [seen for seen in app.seen if seen["path"] == "/who"]
    assert seen["x-forwarded-for"].replace(" ", "") == "203.0.113.7,127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-port"] == "80"
    assert seen["host"] == site.dns_name
    assert not [name for name in seen if name.startswith(("x-envoy", "x-request-id"))]


def test_connections_to_a_target_are_kept(site):
    (app,) = site.healthy(1)
    assert {site.get().status for _ in range(20)} == {200}
    checks = sum(seen["path"] == "/health" for seen in app.seen)
    assert len(app.connections) - checks <= 3


def test_targets_take_turns(site):
    apps = site.healthy(3)
    served = Counter(site.get().body for _ in range(30))
    assert served == {app.name: 10 for app in apps}


def test_least_outstanding_requests_avoids_the_busy_target(site, region):
    site.set_attribute("load_balancing.algorithm.type", "least_outstanding_requests")
    busy, idle = site.healthy(2)
    hanging = []
    for number in range(1, 5):
        hanging.append(Background(lambda: site.get("/hang")))
        region.until(lambda number=number: in_flight(region, busy) + in_flight(region, idle) == number)
    assert in_flight(region, busy) == in_flight(region, idle) == 2
    idle.release.set()
    region.until(lambda: in_flight(region, idle) == 0)
    assert Counter(site.get().body for _ in range(20)) == {idle.name: 20}
    busy.release.set()
    assert {call.result().status for call in hanging} == {200}


def in_flight(region: Region, app: App) -> int:
    return region.balancer.in_flight(app.ip, 3000)


# Health


def test_a_new_target_is_initial_and_needs_one_passed_check(new_site, region):
    site = new_site(HealthyThresholdCount=10, HealthCheckIntervalSeconds=60)
    app = site.add()
    assert site.words(app)[:2] == ("initial", "Elb.RegistrationInProgress")
    started = time.monotonic()
    ten_checks = 10 * region.clock.real(60)
    region.until(lambda: site.state(app) == "healthy", ten_checks)
    assert time.monotonic() - started < ten_checks
    assert site.words(app) == ("healthy",)
    assert site.health()[0]["HealthCheckPort"] == "3000"
    assert len([seen for seen in app.seen if seen["path"] == "/health"]) < 10


def test_a_health_check_looks_like_an_albs(site):
    (app,) = site.healthy(1)
    assert app.seen[0]["path"] == "/health"
    assert app.seen[0]["user-agent"] == "ELB-HealthChecker/2.0"
    assert app.seen[0]["host"] == f"{app.ip}:3000"


def test_a_new_target_that_is_slow_to_answer_is_in_its_initial_checks(site, region):
    app = App("slow")
    app.health_delay = 1
    site.add(app)
    region.until(lambda: site.words(app)[:2] == ("initial", "Elb.InitialHealthChecking"))
    region.until(lambda: site.state(app) == "healthy")


def test_a_new_target_with_the_wrong_code_goes_from_initial_to_unhealthy(new_site, region):
    site = new_site(UnhealthyThresholdCount=4)
    app = App("wrong")
    app.health_status = 404
    site.add(app)
    region.until(lambda: app.seen)
    region.balancer.step()
    assert site.state(app) == "initial"
    region.until(lambda: site.state(app) == "unhealthy")
    assert site.words(app) == (
        "unhealthy", "Target.ResponseCodeMismatch", "Health checks failed with these codes: [404]",
    )  # fmt: skip


def test_an_unhealthy_target_gets_no_request_and_returns_after_its_threshold(site, region):
    good, bad = site.healthy(2)
    bad.health_status = 503
    region.until(lambda: site.state(bad) == "unhealthy")
    assert site.words(bad)[2] == "Health checks failed with these codes: [503]"
    assert Counter(site.get().body for _ in range(10)) == {good.name: 10}
    bad.health_status = 200
    bad.seen.clear()
    region.until(lambda: site.state(bad) == "healthy")
    assert len(bad.seen) >= 2
    assert {site.get().body for _ in range(4)} == {good.name, bad.name}


def test_one_failed_check_is_not_enough(new_site, region):
    site = new_site(UnhealthyThresholdCount=10)
    (app,) = site.healthy(1)
    app.health_status = 500
    app.seen.clear()
    region.until(lambda: len(app.seen) >= 3)
    assert site.state(app) == "healthy"


def test_a_check_without_an_answer_is_a_timeout(site, region):
    (app,) = site.healthy(1)
    app.health_delay = 6
    region.until(lambda: site.state(app) == "unhealthy")
    assert site.words(app)[1:] == ("Target.Timeout", "Request timed out")


def test_a_refused_check_is_a_failed_one(site, region):
    (app,) = site.healthy(1)
    app.close()
    region.until(lambda: site.state(app) == "unhealthy")
    assert site.words(app)[1:] == ("Target.FailedHealthChecks", "Health checks failed")


@pytest.mark.parametrize(("codes", "status"), [("200,302", 302), ("200-299", 204), ("200-204,404", 404)])
def test_the_matcher_says_which_codes_pass(new_site, region, codes, status):
    site = new_site(Matcher={"HttpCode": codes})
    app = App("matching")
    app.health_status = status
    site.add(app)
    region.until(lambda: site.state(app) == "healthy")


def test_a_target_group_without_a_listener_is_not_in_use(site, region):
    app = site.healthy(1)[0]
    site.elbv2.delete_listener(ListenerArn=site.listener)
    region.until(lambda: site.state(app) == "unused")
    assert site.words(app)[1:] == (
        "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer",
    )  # fmt: skip
    site.listen(80)
    region.until(lambda: site.state(app) == "healthy")


def test_a_target_that_nobody_registered(site):
    site.region.balancer.step()
    app = App("stranger")
    app.ip = "172.31.9.9"
    assert site.words(app) == (
        "unused", "Target.NotRegistered", "Target is not registered to the target group",
    )  # fmt: skip
    assert site.health() == []
    app.close()


def test_an_unknown_target_group_is_not_found(site):
    unknown = site.group[:-4] + "0000"
    with pytest.raises(ClientError) as refused:
        site.elbv2.register_targets(TargetGroupArn=unknown, Targets=[{"Id": "172.31.0.1"}])
    assert refused.value.response["Error"]["Code"] == "TargetGroupNotFound"


def test_with_only_unhealthy_targets_it_fails_open_to_all_of_them(site, region):
    apps = site.healthy(2)
    for app in apps:
        app.health_status = 500
    region.until(lambda: {site.state(app) for app in apps} == {"unhealthy"})
    assert Counter(site.get().body for _ in range(10)) == {app.name: 5 for app in apps}


def test_a_changed_health_check_takes_effect_without_a_failed_request(site, region):
    (app,) = site.healthy(1)
    with Load(site) as load:
        site.elbv2.modify_target_group(TargetGroupArn=site.group, HealthCheckPath="/status/204")
        region.until(lambda: any(seen["path"] == "/status/204" for seen in app.seen))
        region.until(lambda: site.state(app) == "unhealthy")
        site.elbv2.modify_target_group(TargetGroupArn=site.group, HealthCheckPath="/health")
        region.until(lambda: site.state(app) == "healthy")
    assert load.failures == []


# Deregistration


def test_a_draining_target_ends_its_requests_and_gets_no_new_one(site, region):
    site.set_delay(3000)
    leaving, staying = site.healthy(2)
    hanging = [Background(lambda: site.get("/hang")) for _ in range(2)]
    region.until(lambda: in_flight(region, leaving) == in_flight(region, staying) == 1)
    site.deregister(leaving)
    assert site.words(leaving) == (
        "draining", "Target.DeregistrationInProgress", "Target deregistration is in progress",
    )  # fmt: skip
    region.until(lambda: site.only_from(staying))
    assert Counter(site.get().body for _ in range(10)) == {staying.name: 10}
    assert in_flight(region, leaving) == 1
    leaving.release.set()
    staying.release.set()
    assert {(call.result().status, call.result().body) for call in hanging} == {
        (200, leaving.name),
        (200, staying.name),
    }
    region.until(lambda: in_flight(region, leaving) == 0)


def test_a_target_shows_draining_for_the_delay_and_then_goes(site, region):
    leaving, staying = site.healthy(2)
    looks = []  # AWS seconds at which each began and ended, with what was seen

    def gone() -> bool:
        began = region.clock.time()
        state = site.state(leaving)
        looks.append((began, state, region.clock.time()))
        return state == "unused"

    asked = region.clock.time()
    site.deregister(leaving)
    answered = region.clock.time()
    region.until(gone)
    assert {state for began, state, _ in looks if began >= answered + 30} <= {"unused"}
    assert {state for _, state, ended in looks if ended < asked + 30} <= {"draining"}
    assert [target["Target"]["Id"] for target in site.health()] == [staying.ip]
    site.deregister(leaving)  # again: AWS accepts it


def test_drained_to_nothing_is_a_503_while_requests_in_flight_end_well(site, region):
    (app,) = site.healthy(1)
    hanging = Background(lambda: site.get("/hang"))
    region.until(lambda: in_flight(region, app) == 1)
    site.deregister(app)
    region.until(lambda: site.answers(503))
    app.release.set()
    assert hanging.result().status == 200


def test_a_request_that_outlives_the_delay_is_not_failed(site, region):
    (app,) = site.healthy(1)
    hanging = Background(lambda: site.get("/hang"))
    region.until(lambda: in_flight(region, app) == 1)
    site.deregister(app)
    region.until(lambda: site.health() == [])
    region.balancer.step()
    assert in_flight(region, app) == 1
    app.release.set()
    assert hanging.result().status == 200
    region.until(lambda: in_flight(region, app) == 0)


def test_without_a_delay_a_target_is_gone_at_once_and_still_ends_its_requests(site, region):
    site.set_delay(0)
    (app,) = site.healthy(1)
    hanging = Background(lambda: site.get("/hang"))
    region.until(lambda: in_flight(region, app) == 1)
    site.deregister(app)
    assert site.state(app) == "unused"
    region.until(lambda: site.answers(503))
    assert in_flight(region, app) == 1
    app.release.set()
    assert hanging.result().status == 200


def test_a_draining_target_that_is_registered_again_serves_again(site, region):
    (app,) = site.healthy(1)
    site.deregister(app)
    region.until(lambda: site.answers(503))
    site.register(app)
    region.until(lambda: site.state(app) == "healthy")
    region.until(lambda: site.answers(200))


class Load:
    """Four clients that keep asking; `failures` are the answers that were not 200."""

    def __init__(self, site: Site):
        self.site, self.failures, self.served = site, [], Counter()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(10)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self.site.dns_name, timeout=10)
        while not self._end.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            self.served[body] += 1
            if response.status != 200:
                self.failures.append(response.status)
        connection.close()


def test_no_request_fails_while_targets_come_and_go(site, region):
    site.set_delay(15)
    current = site.healthy(2)
    with Load(site) as load:
        for _ in range(4):
            added = site.add()
            region.until(lambda app=added: site.state(app) == "healthy")
            gone = current.pop(0)
            site.deregister(gone)
            region.until(lambda app=gone: in_flight(region, app) == 0)
            gone.close()  # as the scheduler does: the process ends once nothing is in flight
            del region.addresses[gone.ip, 3000]
            current.append(added)
            region.until(lambda app=added: load.served[app.name] > 5)
    assert load.failures == []


# Errors


@pytest.mark.parametrize("path", ["/reset", "/garbage"])
def test_a_broken_answer_is_a_502(site, path):
    site.healthy(1)
    answer = site.get(path)
    assert (answer.status, answer.headers["server"]) == (502, "awselb/2.0")
    assert "<h1>502 Bad Gateway</h1>" in answer.body


def test_a_refused_connection_is_a_502(new_site):
    site = new_site(HealthCheckIntervalSeconds=300)
    (app,) = site.healthy(1)
    site.get()
    app.close()
    app.seen.clear()
    answers = {site.get().status for _ in range(3)}
    assert answers == {502}


def test_no_answer_within_the_idle_timeout_is_a_504(site, region):
    attributes = [{"Key": "idle_timeout.timeout_seconds", "Value": "1"}]
    site.elbv2.modify_load_balancer_attributes(LoadBalancerArn=site.arn, Attributes=attributes)
    site.healthy(1)
    answer = site.get("/hang")
    assert (answer.status, answer.headers["server"]) == (504, "awselb/2.0")


# Where targets really are


def test_a_target_that_cannot_be_reached_times_out(site, region):
    app = site.add()
    region.addresses.clear()
    site.register(app)
    region.until(lambda: site.words(app)[:2] == ("initial", "Elb.InitialHealthChecking"))
    region.until(lambda: site.words(app)[:2] == ("unhealthy", "Target.Timeout"))


def test_a_stopped_tasks_port_is_never_anothers(site, region):
    """The old target's process is gone, its port is a new task's: nothing of the old one is carried over."""
    (old,) = site.healthy(1)
    region.addresses.pop((old.ip, 3000))
    old.health_status = 500  # from now on this is the new task's process, not yet healthy
    new = App("unused")
    new.close()
    new.ip = "172.31.7.7"
    region.addresses[new.ip, 3000] = old.server_address
    site.register(new)
    old.seen.clear()
    region.until(lambda: site.state(new) != "initial")
    assert site.state(new) == "unhealthy"
    assert old.seen[0]["host"] == f"{new.ip}:3000"
    region.until(lambda: site.words(old)[1:2] == ("Target.Timeout",))


def test_of_two_targets_at_one_address_the_one_registered_last_has_it(site, region):
    (old,) = site.healthy(1)
    site.add(old, ip="172.31.7.8")  # same server; `old.ip` is the new one's from here on
    region.until(lambda: site.state(old) == "healthy")
    states = sorted(target["TargetHealth"]["State"] for target in site.health())
    region.until(lambda: Counter(target["TargetHealth"]["State"] for target in site.health())["unhealthy"])
    assert states in (["healthy", "healthy"], ["healthy", "unhealthy"])
    assert site.state(old) == "healthy"


# The access log


def test_the_access_log_tells_each_request(site, region):
    region.until(lambda: site.answers(503))
    (app,) = site.healthy(1)
    site.set_delay(3000)
    drain_log(site)
    began, started = region.clock.time(), time.monotonic()
    for path in ("/", "/status/404", "/reset"):
        site.get(path)
    took = time.monotonic() - started
    site.deregister(app)
    region.until(lambda: site.answers(503))
    lines = []
    region.until(lambda: lines.extend(region.balancer.requests()) or (lines and lines[-1].elb_status == 503))
    statuses = [(line.elb_status, line.target_status) for line in lines]
    assert statuses[:3] == [(200, 200), (404, 404), (502, None)]
    assert set(statuses[3:-1]) <= {(200, 200)}  # until Envoy has read that the target leaves
    assert statuses[-1] == (503, None)
    assert [line.target for line in lines] == [(app.ip, 3000)] * (len(lines) - 1) + [None]
    assert {(line.load_balancer_arn, line.target_group_arn) for line in lines} == {(site.arn, site.group)}
    assert all(0 < line.seconds < took for line in lines[:2])
    assert all(began - 1 <= line.time <= region.clock.time() + 1 for line in lines)


def drain_log(site: Site) -> None:
    """Read the log up to a request of its own: Envoy writes it some time after the answer."""
    site.get("/status/418")
    own = (site.arn, 418)
    seen = site.region.balancer.requests
    site.region.until(lambda: own in {(line.load_balancer_arn, line.elb_status) for line in seen()})


def test_seconds_are_the_targets_time_to_answer(site, region):
    (app,) = site.healthy(1)
    drain_log(site)
    began = time.monotonic()
    hanging = Background(lambda: site.get("/hang"))
    region.until(lambda: in_flight(region, app) == 1)
    time.sleep(0.3)
    app.release.set()
    hanging.result()
    took = time.monotonic() - began
    lines = []
    region.until(lambda: lines.extend(region.balancer.requests()) or lines)
    assert 0.3 <= lines[0].seconds <= took


# Ports and the process


def test_a_new_sandbox_takes_its_old_ports(region, tmp_path):
    def balancer(ports: dict[str, int]) -> Balancer:
        return Balancer(
            tmp_path,
            region.clock,
            region.endpoint.client,
            region.endpoint.changes,
            lambda *_: None,
            preferred_ports=ports,
        )

    def reserved(balancer: Balancer) -> str:
        record = {"LoadBalancerName": "app", "DNSName": "app.elb.amazonaws.com"}
        call = FakeCall({"LoadBalancers": [record]})
        return balancer.operations()["elbv2", "CreateLoadBalancer"](call)["LoadBalancers"][0]["DNSName"]

    first = balancer({})
    dns_name = reserved(first)
    saved = json.loads(json.dumps(first.ports()))
    first.stop()
    second = balancer(saved)
    assert reserved(second) == dns_name
    third = balancer(saved)
    assert reserved(third) != dns_name  # taken: by the second
    second.stop()
    third.stop()


class FakeCall:
    region = REGION

    def __init__(self, answer: dict):
        self._answer = answer

    def forward(self) -> dict:
        return self._answer


def test_envoy_is_started_again_with_its_targets(site, region, caplog):
    (app,) = site.healthy(1)
    envoy = region.balancer._envoy._process
    envoy.kill()
    envoy.wait()
    region.until(lambda: site.answers(200))
    assert "Envoy ended with status -9" in caplog.text
    region.until(lambda: site.state(app) == "healthy")
