"""Stands in for ECR's authorization tokens: what GetAuthorizationToken gives, and what a registry takes for it.

Differs: a token opens the registries of every region, and holds for the sandbox that gave it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from enum import Enum

from helpers.sandbox.clock import Clock

USER = "AWS"
VALID = timedelta(hours=12)  # AWS time; GetAuthorizationToken, ECR's API reference


class Token(Enum):
    GOOD = "good"
    EXPIRED = "expired"
    WRONG = "wrong"


class Tokens:
    def __init__(self, clock: Clock):
        self._clock, self._key = clock, secrets.token_bytes(32)

    def issue(self) -> tuple[str, datetime]:
        """(password, when it ends)"""
        ends = self._clock.now() + VALID
        says = f"{ends.timestamp():.6f}.{secrets.token_hex(8)}"
        return base64.b64encode(f"{says}.{self._sign(says)}".encode()).decode(), ends

    def judge(self, authorization: str) -> Token:
        """What a request's Authorization header ("Basic …") is worth."""
        scheme, _, encoded = authorization.partition(" ")
        user, _, password = _decoded(encoded).partition(":")
        says, _, signature = _decoded(password).rpartition(".")
        if scheme.lower() != "basic" or user != USER or not says:
            return Token.WRONG
        if not hmac.compare_digest(signature.encode(), self._sign(says).encode()):
            return Token.WRONG
        ends = datetime.fromtimestamp(float(says.rpartition(".")[0]), UTC)
        return Token.GOOD if self._clock.now() < ends else Token.EXPIRED

    def _sign(self, says: str) -> str:
        return hmac.new(self._key, says.encode(), hashlib.sha256).hexdigest()


def authorization_token(password: str) -> str:
    """As GetAuthorizationToken writes it, and as Basic authentication does."""
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
