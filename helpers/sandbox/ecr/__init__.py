"""What `registry.py` stands on: lifecycle policies as a pure rule, and their previews."""
