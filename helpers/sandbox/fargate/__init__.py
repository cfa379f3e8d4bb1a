"""What `tasks.py` and `scheduler.py` stand on: the interface of the runtimes, the container runtime and its engine, the host
that caps and ends processes, ports, Node.js, and the task metadata endpoint."""
