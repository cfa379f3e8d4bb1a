"""The sizes that Fargate offers: how much memory goes with how much CPU."""

from __future__ import annotations

# CPU units → (least MiB, most MiB, step). Source (A): Amazon ECS Developer Guide, "Troubleshoot Amazon ECS task definition
# invalid CPU or memory errors", docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html
SIZES = {
    256: (512, 2048, 512),  # 512, 1024 and 2048; 1536 is none
    512: (1024, 4096, 1024),
    1024: (2048, 8192, 1024),
    2048: (4096, 16384, 1024),
    4096: (8192, 30720, 1024),
    8192: (16384, 61440, 4096),
    16384: (32768, 122880, 8192),
}


def next_size(cpu: int, memory: int) -> tuple[int, int] | None:
    """(CPU units, MiB) with about twice the memory, and no more CPU than that needs; None when there is none larger."""
    for units, (least, most, step) in SIZES.items():
        if units >= cpu and most > memory:
            wanted = min(max(2 * memory, least), most)
            if wanted < 2 * memory and units < max(SIZES):
                continue
            return units, least + -(-(wanted - least) // step) * step
    return None
