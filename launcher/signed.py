"""Messages that only who knows the run's secret can have written. Torch-free."""

import hashlib
import hmac

_SIZE = 32


class ForgedError(RuntimeError):
    """A message that nobody with the run's secret has written."""


def sign(secret: bytes, name: str, message: bytes) -> bytes:
    """The message with its signature in front; `name` is what it says it is about."""
    return _signature(secret, name, message) + message


def unsign(secret: bytes, name: str, signed: bytes) -> bytes:
    """Inverse of sign. Raises ForgedError."""
    found, message = signed[:_SIZE], signed[_SIZE:]
    if not hmac.compare_digest(found, _signature(secret, name, message)):
        raise ForgedError(f"{name} was written by somebody who does not know this run's secret")
    return message


def _signature(secret: bytes, name: str, message: bytes) -> bytes:
    return hmac.digest(secret, len(name).to_bytes(8) + name.encode() + message, hashlib.sha256)
