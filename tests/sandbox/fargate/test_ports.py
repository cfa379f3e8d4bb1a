from __future__ import annotations

from helpers.sandbox.fargate.ports import FreePorts


def test_ports_are_not_given_out_twice() -> None:
    ports = FreePorts()
    seen = set()
    for _ in range(300):
        port = ports.take()
        seen.add(port.number)
        port.release()
    assert len(seen) == 300
