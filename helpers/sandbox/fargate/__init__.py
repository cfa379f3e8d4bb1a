"""What `tasks.py` stands on: the host that caps and ends tasks, Node.js, and the task metadata endpoint."""
