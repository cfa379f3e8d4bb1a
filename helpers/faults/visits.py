"""A small, bounded number of requests at a service, and what answered them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

PATIENCE = 5.0  # real seconds for an answer
THREADS = 8


def visit(url: str, times: int, threads: int = THREADS) -> Counter[int]:
    """So many requests; how many had each status. 0: no answer at all."""
    with ThreadPoolExecutor(threads) as executor:
        return Counter(executor.map(_status, [url] * times))


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, HTTPException):
        return 0


def errors(seen: Counter[int]) -> int:
    """How many were failures of the service: no answer, or a status of 500 and more."""
    return sum(count for status, count in seen.items() if status == 0 or status >= 500)
