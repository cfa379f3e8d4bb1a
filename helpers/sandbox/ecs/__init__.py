"""What `scheduler.py` stands on: services and their deployments, a task's lifecycle and placement, and ECS's operations."""
