"""What `balancer.py` stands on: Envoy and its configuration, ports, and a target's health."""
