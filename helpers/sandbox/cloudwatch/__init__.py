"""What `meter.py` and `alarms.py` stand on: how samples are kept and statistics computed."""
