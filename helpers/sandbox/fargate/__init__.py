"""What Fargate is made of: what tasks run as, the host that caps and ends them, Node.js, the task metadata endpoint."""
