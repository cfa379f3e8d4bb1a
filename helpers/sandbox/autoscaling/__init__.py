"""What `autoscaler.py` stands on: the target tracking rule, and scalable targets with their policies."""
