"""What `stacks.py` and `resources.py` stand on: the template language, change sets, the engine, a handler per resource type."""
