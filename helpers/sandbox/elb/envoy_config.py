"""Stands in for what an Application Load Balancer does with a request: Envoy's configuration, made to answer as one.

Differs: sticky sessions, slow start and listener rules are not made. A request still in flight when its target's
deregistration delay ends is not cut; it ends with the target's process. All times here are real seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT = 10.0  # "no connection in 10 s" is a 504: aws-facts, section 4
PANIC_PERCENT = 1.0  # below this share of healthy targets all are used: an ALB fails open
ACCESS_LOG = "access.log"
UNLIMITED = 1_000_000  # Envoy's own limits on connections and requests, which an ALB has not
ALGORITHMS = {
    "round_robin": {"lb_policy": "ROUND_ROBIN"},
    "least_outstanding_requests": {
        "lb_policy": "LEAST_REQUEST",
        "least_request_lb_config": {"choice_count": 64},  # as good as all; 2 by default
    },
    "weighted_random": {"lb_policy": "RANDOM"},
}
# Which local answer of Envoy is which answer of an ALB: https://docs.aws.amazon.com/elasticloadbalancing/latest/
# application/load-balancer-troubleshooting.html. The first that matches counts.
BAD_GATEWAY = ["UF", "UC", "UR", "LR", "UPE"]  # connection refused, reset, malformed answer
UNAVAILABLE = ["UH", "NC", "UO"]  # no target to send to
TIMED_OUT = ["SI", "UT"]
REASONS = {502: "502 Bad Gateway", 503: "503 Service Temporarily Unavailable", 504: "504 Gateway Time-out"}
PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
LOG_FORMAT = {
    "start": "%START_TIME(%s.%6f)%",
    "milliseconds": "%DURATION%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "target_group": "%UPSTREAM_CLUSTER%",
    "target": "%UPSTREAM_HOST_NAME%",
    # From the request's last byte sent to the target until the answer's first: CloudWatch's TargetResponseTime.
    "microseconds": "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)%",
}
TYPE = "type.googleapis.com/envoy."


@dataclass(frozen=True)
class HealthCheck:
    """`interval` and `timeout` in real seconds; `codes` as a target group's matcher: "200", "200,301", "200-299"."""

    path: str = "/"
    interval: float = 1.0
    timeout: float = 5.0
    healthy: int = 5
    unhealthy: int = 2
    codes: str = "200"

    def passes(self, status: int) -> bool:
        return any(first <= status < end for first, end in code_ranges(self.codes))


@dataclass(frozen=True)
class Endpoint:
    """A target: its name in the API ("172.31.0.9:3000") and where it really is."""

    name: str
    address: tuple[str, int]
    health_check_port: int | None = None  # None: the same as the traffic's
    draining: bool = False
    healthy: bool | None = None  # None: Envoy checks; else it is told


@dataclass(frozen=True)
class Cluster:
    """A target group that a listener uses."""

    arn: str
    health_check: HealthCheck = HealthCheck()
    algorithm: str = "round_robin"
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class FixedResponse:
    status: int
    body: str = ""
    content_type: str = "text/plain"


@dataclass(frozen=True)
class Listener:
    """A listener's port at AWS, its port on loopback, and where it sends: a target group's ARN or a fixed response."""

    arn: str
    load_balancer_arn: str
    port: int
    loopback_port: int
    action: str | FixedResponse
    idle_timeout: float = 60.0


def code_ranges(codes: str) -> list[tuple[int, int]]:
    """A matcher's codes as half-open ranges: "200,204-206" -> [(200, 201), (204, 207)]."""
    pairs = (part.strip().partition("-")[::2] for part in codes.split(","))
    return [(int(first), int(last or first) + 1) for first, last in pairs]


def configuration(
    directory: Path, clusters: Iterable[Cluster], listeners: Iterable[Listener]
) -> dict[str, Any]:
    """Envoy's files by name, in the order in which they have to be written."""
    clusters, listeners = list(clusters), list(listeners)
    files = {_endpoints_file(cluster.arn): _resources([_endpoints(cluster)]) for cluster in clusters}
    files["clusters.json"] = _resources([_cluster(directory, cluster) for cluster in clusters])
    files |= {_route_file(listener.arn): _resources([_route(listener)]) for listener in listeners}
    files["listeners.json"] = _resources([_listener(directory, listener) for listener in listeners])
    return files


def bootstrap(directory: Path) -> dict[str, Any]:
    return {
        "node": {"id": "sandbox", "cluster": "sandbox"},
        "dynamic_resources": {
            "lds_config": _file(directory / "listeners.json"),
            "cds_config": _file(directory / "clusters.json"),
        },
        "admin": {"address": _address(("127.0.0.1", 0))},
    }


def _resources(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resources": resources}


def _file(path: Path) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _address(address: tuple[str, int]) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"


def _header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": action}


def _metadata(state: str) -> dict[str, Any]:
    return {"filter_metadata": {"envoy.lb": {"state": state}}}


def _endpoints_file(arn: str) -> str:
    return f"endpoints-{arn.rsplit('/', 1)[-1]}.json"


def _route_file(arn: str) -> str:
    return f"route-{arn.rsplit('/', 1)[-1]}.json"


def _endpoints(cluster: Cluster) -> dict[str, Any]:
    def one(endpoint: Endpoint) -> dict[str, Any]:
        check: dict[str, Any] = {"hostname": endpoint.name}
        if endpoint.health_check_port is not None:
            check["port_value"] = endpoint.health_check_port
        told: dict[str, Any] = {}
        if endpoint.healthy is not None:
            check["disable_active_health_check"] = True
            told["health_status"] = "HEALTHY" if endpoint.healthy else "UNHEALTHY"
        return {
            **told,
            "endpoint": {
                "address": _address(endpoint.address),
                "hostname": endpoint.name,
                "health_check_config": check,
            },
            "metadata": _metadata("draining" if endpoint.draining else "registered"),
        }

    return {
        "@type": TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster.arn,
        "endpoints": [{"lb_endpoints": [one(endpoint) for endpoint in cluster.endpoints]}],
    }


def _cluster(directory: Path, cluster: Cluster) -> dict[str, Any]:
    check = cluster.health_check
    http = "extensions.upstreams.http.v3.HttpProtocolOptions"
    limits = ("max_connections", "max_pending_requests", "max_requests")
    return {
        "@type": TYPE + "config.cluster.v3.Cluster",
        "name": cluster.arn,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": cluster.arn,
            "eds_config": _file(directory / _endpoints_file(cluster.arn)),
        },
        "connect_timeout": _seconds(CONNECT_TIMEOUT),
        **ALGORITHMS[cluster.algorithm],
        # A draining target keeps its place, so that its requests can be counted, but is in no subset that a route
        # takes: Envoy's own DRAINING would be chosen again when no healthy target is left.
        "lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["state"]}]},
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            "healthy_panic_threshold": {"value": PANIC_PERCENT},
            "ignore_new_hosts_until_first_hc": True,
            # By default Envoy waits up to a second to take several changes at once: too long for a target that leaves.
            "update_merge_window": _seconds(0),
        },
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, UNLIMITED)]},
        "health_checks": [
            {
                "interval": _seconds(check.interval),
                "no_traffic_interval": _seconds(check.interval),
                "timeout": _seconds(check.timeout),
                "healthy_threshold": check.healthy,
                "unhealthy_threshold": check.unhealthy,
                "reuse_connection": False,
                "http_health_check": {
                    "path": check.path,
                    "expected_statuses": [
                        {"start": first, "end": end} for first, end in code_ranges(check.codes)
                    ],
                    # Else one wrong status would be enough to call a target unhealthy.
                    "retriable_statuses": [{"start": 100, "end": 600}],
                    "request_headers_to_add": [_header("User-Agent", "ELB-HealthChecker/2.0")],
                },
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + http,
                "common_http_protocol_options": {"idle_timeout": _seconds(60)},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _route(listener: Listener) -> dict[str, Any]:
    if isinstance(listener.action, FixedResponse):
        fixed = listener.action
        action: dict[str, Any] = {
            "direct_response": {"status": fixed.status, "body": {"inline_string": fixed.body}},
            "response_headers_to_add": [_header("Content-Type", fixed.content_type)],
        }
    else:
        forward = {
            "cluster": listener.action,
            "metadata_match": _metadata("registered"),
            "timeout": _seconds(0),  # an ALB bounds silence, not the whole answer
            "idle_timeout": _seconds(listener.idle_timeout),
        }
        action = {"route": forward}
    return {
        "@type": TYPE + "config.route.v3.RouteConfiguration",
        "name": listener.arn,
        # Envoy by itself would add the machine's address for a client on loopback.
        "request_headers_to_add": [
            _header("X-Forwarded-For", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "APPEND_IF_EXISTS_OR_ADD"),
            _header("X-Forwarded-Port", str(listener.port)),
        ],
        "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal"],
        "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
        ],
    }


def _listener(directory: Path, listener: Listener) -> dict[str, Any]:
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    log_file = {
        "@type": TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(directory / ACCESS_LOG),
        "log_format": {"json_format": {"load_balancer": listener.load_balancer_arn, **LOG_FORMAT}},
    }
    router = {"@type": TYPE + "extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    connections = {
        "@type": TYPE + manager,
        "stat_prefix": f"port_{listener.loopback_port}",
        "rds": {
            "route_config_name": listener.arn,
            "config_source": _file(directory / _route_file(listener.arn)),
        },
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"idle_timeout": _seconds(listener.idle_timeout)},
        "http_protocol_options": {"accept_http_10": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "local_reply_config": {"mappers": _local_replies()},
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": log_file}],
    }
    return {
        "@type": TYPE + "config.listener.v3.Listener",
        "name": listener.arn,
        "address": _address(("127.0.0.1", listener.loopback_port)),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
    }


def _local_replies() -> list[dict[str, Any]]:
    connect_timeout = {
        "@type": TYPE + "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        "expression": "response.code_details.contains('connection_timeout')",
    }
    filters = [
        ({"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": connect_timeout}}, 504),
        *(({"response_flag_filter": {"flags": flags}}, status) for flags, status in
          ((BAD_GATEWAY, 502), (UNAVAILABLE, 503), (TIMED_OUT, 504))),
    ]  # fmt: skip
    return [
        {
            "filter": which,
            "status_code": status,
            "headers_to_add": [_header("Server", "awselb/2.0")],
            "body_format_override": {
                "text_format_source": {"inline_string": PAGE.format(REASONS[status])},
                "content_type": "text/html",
            },
        }
        for which, status in filters
    ]
