"""What EC2's records say about connections: `reachability.py` decides, `network.py` reads and asks."""
