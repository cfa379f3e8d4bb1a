"""A load balancer whose packets a security group drops: real silence for Envoy, rules and routes that moto records."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from helpers.sandbox import mends
from helpers.sandbox.balancer import Balancer
from helpers.sandbox.ec2.network import Network
from helpers.sandbox.elb import envoy_config
from tests.sandbox.test_balancer import REGION, App, Background, Region, Site, names

TIMED_OUT = ("unhealthy", "Target.Timeout", "Request timed out")


class Guarded(Region):
    """A region whose network is evaluated: load balancers in the group `front`, targets in the group `back`."""

    def __init__(self, state) -> None:
        self.tasks: dict[str, SimpleNamespace] = {}
        super().__init__(
            state, lambda self: Network(self.endpoint.client, self.endpoint.changes, self.task_at)
        )
        self.ec2 = self.endpoint.client("ec2", REGION)
        mends.furnish(self.ec2)
        self.front, self.back = self.group("front"), self.group("back")
        self.allow(self.front, 80, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
        self.let_tasks_in()

    def site(self, **target_group) -> GuardedSite:
        return GuardedSite(self, **target_group)

    def task_at(self, region: str, ip: str) -> SimpleNamespace | None:
        return self.tasks.get(ip)

    def group(self, name: str) -> str:
        return self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)["GroupId"]

    def allow(self, group: str, port: int, **source) -> None:
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_tcp(port, **source)])

    def revoke(self, group: str, port: int, **source) -> None:
        self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[_tcp(port, **source)])

    def let_tasks_in(self, port: int = 3000) -> None:
        self.allow(self.back, port, UserIdGroupPairs=[{"GroupId": self.front}])

    def shut_tasks_off(self, port: int = 3000) -> None:
        self.revoke(self.back, port, UserIdGroupPairs=[{"GroupId": self.front}])


def _tcp(port: int, **source) -> dict:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}


class GuardedSite(Site):
    def __init__(self, region: Guarded, **target_group):
        super().__init__(region, **target_group)
        self.elbv2.set_security_groups(LoadBalancerArn=self.arn, SecurityGroups=[region.front])

    def add(self, app: App | None = None, ip: str | None = None) -> App:
        ip = ip or f"172.31.1.{next(names) % 250}"
        task = SimpleNamespace(subnet_id=self.region.subnets[0], security_groups=[self.region.back])
        self.region.tasks[ip] = task
        return super().add(app, ip)


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Iterator[Guarded]:
    region = Guarded(tmp_path_factory.mktemp("state"))
    yield region
    region.close()


@pytest.fixture
def shut_off(region):
    """The rule is taken away, and put back at the end unless the test has."""
    region.shut_tasks_off()
    put_back = []

    def put() -> None:
        region.let_tasks_in()
        put_back.append(True)

    yield put
    if not put_back:
        put()


@pytest.fixture
def impatient(monkeypatch):
    """Envoy waits less for a connection, in what it is told from here on."""
    monkeypatch.setattr(envoy_config, "CONNECT_TIMEOUT", 1.5)


def timed(call) -> tuple[object, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


def test_a_target_group_that_is_gone_between_two_looks_is_left_out():
    class Swapped(dict):
        def __contains__(self, arn):
            return True  # so it was, a moment ago

    world = SimpleNamespace(
        _network=object(),
        _records=lambda: 1,
        _targets={"gone": {"target": SimpleNamespace(surveyed=0)}},
        _groups=Swapped(),
        _shut_at=1,
        _survey=pytest.fail,
    )
    Balancer._survey_all(world)


def test_an_open_path_changes_nothing(site, region):
    (app,) = site.healthy(1)
    assert site.get().body == app.name
    assert [target["TargetHealth"] for target in site.health()] == [{"State": "healthy"}]


def test_a_revoked_rule_times_out_in_aws_time_and_an_authorized_one_heals(impatient, site, region):
    apps = site.healthy(2)
    region.shut_tasks_off()
    closed_at = region.clock.time()
    try:
        region.balancer.step()
        assert {site.state(app) for app in apps} == {"healthy"}  # until the threshold
        early = Background(lambda: timed(site.get))
        region.until(lambda: {site.words(app) for app in apps} == {TIMED_OUT})
        # Two checks 5 AWS seconds apart, the last with its timeout of 2: no real second is waited for.
        assert region.clock.time() - closed_at >= 10
        late = Background(lambda: timed(site.get))  # fails open: it is the targets that do not answer
        for app in apps:
            app.seen.clear()
        # The later one may fail with the connection that the first one waits for.
        for (answer, seconds), least in ((early.result(), 1.4), (late.result(), 0.1)):
            assert answer.status == 504
            assert answer.headers["server"] == "awselb/2.0"
            assert least < seconds < 30
        assert [app.seen for app in apps] == [[], []]  # not even a health check
    finally:
        region.let_tasks_in()
    region.until(lambda: {site.state(app) for app in apps} == {"healthy"})
    region.until(lambda: {site.get().body for _ in range(4)} == {app.name for app in apps})


def test_a_new_target_behind_a_closed_path_is_never_healthy(site, region, shut_off):
    app = site.add()
    seen = set()
    region.until(lambda: seen.add(site.words(app)[:2]) or site.words(app) == TIMED_OUT)
    assert {state for state, _ in seen} == {"initial", "unhealthy"}
    assert app.seen == []
    shut_off()
    region.until(lambda: site.state(app) == "healthy")


def test_a_healthy_target_beside_it_takes_all_requests(site, region):
    open_app, shut_app = site.healthy(2)
    lonely = region.group("lonely")
    region.tasks[shut_app.ip].security_groups = [lonely]
    region.allow(lonely, 22, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
    region.until(lambda: site.words(shut_app) == TIMED_OUT)
    region.until(lambda: site.only_from(open_app))
    assert {site.get().body for _ in range(6)} == {open_app.name}
    region.allow(lonely, 3000, UserIdGroupPairs=[{"GroupId": region.front}])
    region.until(lambda: site.state(shut_app) == "healthy")
    region.until(lambda: {site.get().body for _ in range(6)} == {open_app.name, shut_app.name})


def test_a_recovered_target_waits_for_its_healthy_threshold(new_site, region):
    site = new_site(HealthyThresholdCount=5)
    (app,) = site.healthy(1)
    region.shut_tasks_off()
    region.until(lambda: site.state(app) == "unhealthy")
    region.let_tasks_in()
    opened_at = region.clock.time()
    region.until(lambda: site.state(app) == "healthy")
    assert region.clock.time() - opened_at >= 4 * 5


def test_a_request_in_flight_outlives_the_rule(site, region, shut_off):
    """Security groups are stateful: a connection that is there stays ("Connection tracking", EC2 User Guide)."""
    shut_off()
    (app,) = site.healthy(1)
    hanging = Background(lambda: site.get("/hang"))
    region.until(lambda: any(seen["path"] == "/hang" for seen in app.seen))
    region.shut_tasks_off()
    region.until(lambda: site.words(app) == TIMED_OUT)
    app.release.set()
    assert hanging.result().status == 200
    region.let_tasks_in()


def test_a_target_that_leaves_does_so_in_silence_too(site, region, shut_off):
    app = site.add()
    region.until(lambda: site.words(app) == TIMED_OUT)
    site.set_delay(5)
    site.deregister(app)
    region.until(lambda: site.state(app) == "draining")
    region.until(lambda: site.health() == [])


# A port for health checks of their own


def test_checks_at_a_port_that_is_closed_time_out_and_requests_are_answered(new_site, region):
    site = new_site(HealthCheckPort="8080")
    app = site.add()
    region.until(lambda: site.words(app) == TIMED_OUT)
    assert site.get().body == app.name  # fails open
    region.let_tasks_in(8080)
    try:  # nothing listens there
        region.until(lambda: site.words(app)[1:] == ("Target.FailedHealthChecks", "Health checks failed"))
        assert site.get().body == app.name
    finally:
        region.shut_tasks_off(8080)


def test_checks_at_an_open_port_say_nothing_of_a_closed_one_for_requests(new_site, region, shut_off):
    site = new_site(HealthCheckPort="8080")
    region.let_tasks_in(8080)
    checks = App("checks")
    try:
        app = App("traffic")
        ip = f"172.31.1.{next(names) % 250}"
        region.addresses[ip, 8080] = checks.server_address
        site.add(app, ip)
        region.until(lambda: site.state(app) == "healthy")
        assert hangs(site)
        assert app.seen == []
    finally:
        region.shut_tasks_off(8080)
        checks.close()


# The load balancer's own group


def hangs(site: Site) -> bool:
    with closing(http.client.HTTPConnection(site.dns_name, timeout=0.7)) as connection:
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except TimeoutError:
            return True
        except OSError:
            pass
    return False


def test_a_load_balancer_that_lets_nobody_in_does_not_answer(site, region):
    (app,) = site.healthy(1)
    everybody = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    region.revoke(region.front, 80, **everybody)
    try:
        region.until(lambda: hangs(site))
        assert site.state(app) == "healthy"  # its checks start inside
    finally:
        region.allow(region.front, 80, **everybody)
    region.until(lambda: not hangs(site))
    assert site.get().body == app.name


def test_a_load_balancer_without_a_group_has_the_vpcs_default_one(site, region):
    site.healthy(1)
    site.elbv2.set_security_groups(LoadBalancerArn=site.arn, SecurityGroups=[])
    region.until(lambda: hangs(site))


def test_in_the_steady_state_nothing_is_asked(site, region, monkeypatch):
    site.healthy(2)
    region.balancer.step()

    def asked(*_):
        raise AssertionError("the network was asked though nothing had changed")

    with monkeypatch.context() as patch:  # undone before the site is closed, which is a change
        for name in ("reaches", "lets_in", "vpcs"):
            patch.setattr(Network, name, asked)
        for _ in range(3):
            region.balancer.step()
