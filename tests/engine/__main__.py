"""`python -m tests.engine`: makes the base images for the tests; `--remove` takes the stand-ins away."""

from __future__ import annotations

import argparse
import sys

import docker
from docker.errors import DockerException

from tests.engine import base_images


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine", description=base_images.__doc__)
    parser.add_argument("--remove", action="store_true", help="take the stand-ins away")
    arguments = parser.parse_args()
    try:
        client = docker.from_env(version="auto")
        if arguments.remove:
            print("\n".join(base_images.remove(client)))
        else:
            base_images.make_ready(client, say=print)
    except (DockerException, base_images.NoStandIn) as problem:
        print(f"no base images: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
