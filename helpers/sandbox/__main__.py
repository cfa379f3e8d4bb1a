"""Stands in for a region of AWS: one process that holds the endpoint, the records and every loop that acts on them.

    python -m helpers.sandbox --state DIR --speed 30 --runtime process

Differs: it ends after two real hours without a request, with everything it runs. After a SIGKILL, the host process
that caps the tasks ends them, and has the containers removed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.sandbox import HELD, Sandbox, SandboxError, held
from helpers.sandbox.clock import AwsClock, Clock
from helpers.sandbox.ecr.distribution import NoDistribution
from helpers.sandbox.ecr.distribution_runner import DistributionError
from helpers.sandbox.elb.envoy import EnvoyError
from helpers.sandbox.fargate.engine import EngineMissing

if TYPE_CHECKING:
    from helpers.sandbox.elb.access_log import Request
    from helpers.sandbox.endpoint import Endpoint
    from helpers.sandbox.fargate.runtime import RunningTask, Runtime
    from helpers.sandbox.registry import Registry

log = logging.getLogger("sandbox")

IDLE = 2 * 3600.0  # real seconds without a request, after which the sandbox ends


class AwsTimeFormatter(logging.Formatter):
    def __init__(self, clock: Clock):
        super().__init__("%(asctime)s %(name)-20s %(message)s")
        self._clock = clock

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return self._clock.now().strftime("%H:%M:%S")


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m helpers.sandbox", description="A small AWS on this machine.")
    parser.add_argument("--state", type=Path, required=True, help="directory for its files")
    parser.add_argument("--speed", type=float, default=30.0, help="AWS seconds in a real second")
    kinds = ["process", "container"]
    parser.add_argument("--runtime", choices=kinds, default="process", help="what a task runs as")
    parser.add_argument("--why", default="", help="why it runs as that, for whoever asks")
    options = parser.parse_args(argv)
    options.state.mkdir(parents=True, exist_ok=True)
    clock = AwsClock(options.speed)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AwsTimeFormatter(clock))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.filterwarnings(
        "ignore", message="Exception.AwsError. with code"
    )  # moto's models do not list all codes
    log.setLevel(logging.INFO)
    try:
        with held(options.state) as still_held:
            Region(options.state, clock, options.runtime, options.why).run(still_held)
    except SandboxError as error:
        print(error, file=sys.stderr)
        return HELD
    except (EnvoyError, EngineMissing, NoDistribution, DistributionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _read_ports(file: Path) -> dict[str, Any]:
    """The ports that an earlier sandbox had; none of a file that nobody can read."""
    try:
        ports = json.loads(file.read_text())
        by_name = {
            part: {str(name): int(port) for name, port in ports.get(part, {}).items()}
            for part in ("balancers", "registries")
        }
        return {"endpoint": int(ports.get("endpoint", 0)), **by_name}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class Region:
    """The parts, wired. See the picture in `helpers/sandbox/__init__.py`."""

    def __init__(self, state: Path, clock: AwsClock, runtime: str, why: str = ""):
        # Imported here: whoever only asks for the options need not wait for moto.
        from helpers.sandbox import mends

        mends.share_models()
        from helpers.sandbox.endpoint import Endpoint

        self.state, self.clock, self.why = state, clock, why
        self.here: Sandbox | None = None  # once it is ready
        self.told = True  # whether its file says what `here` does
        self.ports_file = state / "ports.json"
        self.old_ports = _read_ports(self.ports_file)
        self.endpoint = self._endpoint(Endpoint)
        mends.forget_instances()
        mends.install_time(clock)
        self.endpoint.on_region = lambda region: mends.furnish(self.endpoint.client("ec2", region))
        mends.preload()
        self._wire(runtime)

    def _endpoint(self, make: Callable[[int], Endpoint]) -> Endpoint:
        try:
            return make(self.old_ports.get("endpoint", 0))
        except (OSError, SystemExit):  # its old port is taken; werkzeug says so by SystemExit
            return make(0)

    def _wire(self, runtime: str) -> None:
        from helpers.sandbox.alarms import Alarms
        from helpers.sandbox.autoscaler import AutoScaler
        from helpers.sandbox.balancer import Balancer
        from helpers.sandbox.cloudwatch import log_store, metric_store
        from helpers.sandbox.control import PREFIX, Control
        from helpers.sandbox.ec2.network import Network
        from helpers.sandbox.ecs import task_definitions
        from helpers.sandbox.ecs.preparation import Preparation
        from helpers.sandbox.fargate.host import Host
        from helpers.sandbox.fargate.metadata import MetadataServer
        from helpers.sandbox.iam.roles import Roles
        from helpers.sandbox.logs import PRUNED_EVERY, AwsLogs
        from helpers.sandbox.meter import Meter
        from helpers.sandbox.records import Records
        from helpers.sandbox.scheduler import Scheduler
        from helpers.sandbox.stacks import CloudFormation
        from helpers.sandbox.standstill import Loop, Standstill

        state, clock, aws, changes = self.state, self.clock, self.endpoint.client, self.endpoint.changes
        records = Records()
        metric_store.mend_metrics()
        log_store.mend_filter()
        self.host, self.metadata = Host(), MetadataServer(records)
        logs = AwsLogs(records, aws, clock)
        self.runtime, self.registry = self._runtime(runtime, logs.follow)
        registry = self.registry
        self.network = Network(aws, changes, records.task_at)
        self.balancer = balancer = Balancer(
            state,
            clock,
            aws,
            changes,
            records.resolve,
            self.host.spawn,
            self.old_ports.get("balancers", {}),
            self.network,
        )
        self.scheduler = scheduler = Scheduler(
            clock,
            records,
            aws,
            self.runtime,
            balancer.health,
            logs,
            preparation=Preparation(logs, Roles(aws, changes), registry, self.network),
            in_flight=balancer.in_flight,
        )
        meter = Meter(clock, records, aws, changes, self._requests, balancer.health)
        alarms = Alarms(clock, records, aws)
        autoscaler = AutoScaler(clock, records, aws, alarms.evaluations)
        stacks = CloudFormation(clock, aws, wait=clock.sleep)
        for part in (registry, balancer, scheduler, meter, alarms, autoscaler, stacks):
            self.endpoint.add(part.operations())
        for module in (task_definitions, log_store):
            self.endpoint.add(module.operations())
        hold = {"held": lambda: clock.paused}
        measures = Loop("meter", meter.step, 0.05, **hold, meanwhile=meter.take_in)
        deciding = [
            Loop("balancer", balancer.step, 0.1, **hold, meanwhile=balancer.keep_running),
            Loop("scheduler", scheduler.step, 0.1, **hold),
            Loop("alarms", alarms.step, 0.1, **hold),
            Loop("autoscaler", autoscaler.step, 0.1, **hold),
        ]
        # Read on, and thrown away, in a pause, too: what tasks write would fill the disk, and then the memory.
        reading = Loop("logs", logs.step, 0.5)
        pruning = Loop("pruning", log_store.prune, PRUNED_EVERY, held=lambda: not clock.paused)
        self.loops = [*deciding, measures, reading, pruning]
        standstill = Standstill(
            clock, deciding, measures, hold=meter.hold, go_on=meter.go_on, tell=self._tell_time
        )
        self.endpoint.mount(PREFIX, Control(records, pause=standstill.pause, resume=standstill.resume))

    def _runtime(self, kind: str, on_start: Callable[[RunningTask], None]) -> tuple[Runtime, Registry]:
        """What tasks run as, and the registry that their images come from."""
        from helpers.sandbox.registry import Registry

        ports = self.old_ports.get("registries", {})
        if kind == "process":
            from helpers.sandbox.tasks import ProcessRuntime

            registry = Registry(self.state, self.clock, self.endpoint.client, ports=ports)
            url = self.metadata.url
            runtime: Runtime = ProcessRuntime(
                self.state, self.host, self.clock, registry.image, metadata_url=url, on_start=on_start
            )
            return runtime, registry
        from helpers.sandbox.ecr.distribution import find_distribution
        from helpers.sandbox.fargate import engine
        from helpers.sandbox.fargate.containers import ContainerRuntime
        from helpers.sandbox.fargate.pulls import Pulls

        client, labels = engine.find_engine(), engine.new_labels(self.state)
        distribution = find_distribution(self.state, self.host.spawn, lambda: client, labels)
        registry = Registry(self.state, self.clock, self.endpoint.client, distribution, ports)
        pulls = Pulls(client, registry.pull_spec)
        runtime = ContainerRuntime(
            self.state,
            client,
            self.clock,
            pulls,
            metadata=self._metadata_for_containers,
            labels=labels,
            on_start=on_start,
            at_end=self.host.run_at_end,
            forget_images=pulls.forget,
        )
        return runtime, registry

    def _metadata_for_containers(self, gateway: str | None) -> str:
        """The metadata endpoint's address in a container. Docker's virtual machines know ours by a name."""
        if gateway is not None:
            return self.metadata.listen(gateway)
        return self.metadata.url.replace("127.0.0.1", "host.docker.internal")

    def _requests(self) -> list[Request]:
        """The requests that the load balancers served: these count as use, too."""
        served = self.balancer.requests()
        if served:
            self.endpoint.last_request = time.monotonic()
        return served

    def _tell_time(self) -> None:
        """Let other processes know whether AWS time passes, and from where."""
        self.endpoint.last_request = time.monotonic()  # somebody asked
        if self.here is not None:
            paused, real, aws = self.clock.paused, time.time(), self.clock.time()
            self.here = replace(self.here, paused=paused, real_epoch=real, aws_epoch=aws)
            self.told = False
            self._write_down()

    def _write_down(self) -> None:
        if self.here is None or self.told:
            return
        try:
            self.here.write()
            self.told = True
        except (
            OSError
        ) as error:  # a full disk; the clock has changed already, and it is tried again in a second
            log.warning("AWS time is not written down: %s", error)

    def run(self, still_held: Callable[[], bool]) -> None:
        """Serve until SIGTERM, until nobody has asked anything for `IDLE` real seconds, or until the state directory
        is no longer ours: nobody would find this sandbox again."""
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        self.host.start()
        try:
            self.metadata.start()
            self.registry.start()
            self.balancer.start()
            self.endpoint.start()
            for loop in self.loops:
                loop.start()
            began = time.time()
            self.here = here = Sandbox(
                state=str(self.state.resolve()),
                pid=os.getpid(),
                endpoint=self.endpoint.url,
                speed=self.clock.speed,
                runtime=self.runtime.name,
                why=self.why,
                real_epoch=began,
                aws_epoch=self.clock.time(),
                began=began,
            )
            here.write()
            log.info("ready at %s, %g AWS seconds a second", here.endpoint, here.speed)
            while not ended.wait(1.0):
                if time.monotonic() - self.endpoint.last_request > IDLE:
                    log.info("nobody has asked anything for %g hours: good night", IDLE / 3600)
                    break
                if not still_held():
                    log.warning("the state directory was deleted: good night")
                    break
                self._remember_ports()
                self._write_down()
        finally:
            if still_held():
                (self.state / "state.json").unlink(missing_ok=True)
            self._close()

    def _remember_ports(self) -> None:
        ports = {
            "endpoint": self.endpoint.port,
            "balancers": self.balancer.ports(),
            "registries": self.registry.ports(),
        }
        if ports != self.old_ports:
            partial = self.ports_file.with_suffix(".partial")
            try:
                partial.write_text(json.dumps(ports, indent=1) + "\n")
                partial.replace(self.ports_file)
            except OSError as error:  # a full disk is no reason to end; it is tried again in a second
                log.warning("the ports are not written down: %s", error)
                return
            self.old_ports = ports

    def _close(self) -> None:
        for loop in self.loops:
            loop.ended.set()
        self.clock.resume()  # what is waited for from here on must end
        self.scheduler.close()
        self.runtime.close()
        self.balancer.stop()
        self.registry.close()
        self.host.stop()
        for line in self.endpoint.timings():
            log.info("took: %s", line)
        log.info("ended")


if __name__ == "__main__":
    sys.exit(main())
