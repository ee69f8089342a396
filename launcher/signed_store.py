"""A store in which ranks find each other's addresses, and a stranger cannot leave his own."""

from datetime import timedelta
from typing import final

from torch._C._distributed_c10d import Store  # the names in torch.distributed have no types

from launcher.signed import sign, unsign


@final
class SignedStore(Store):
    """Signs every value of another store. Counters are not signed: they lead nowhere.

    torch calls it from C++ for as long as the process group lives, and does not keep it alive.
    """

    def __init__(self, store: Store, secret: bytes) -> None:
        super().__init__()
        self._store, self._secret = store, secret
        self._clones: list[SignedStore] = []

    def set(self, key: str, value: str | bytes) -> None:
        """See torch.distributed.Store."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._store.set(key, sign(self._secret, key, data).hex())

    def get(self, key: str) -> bytes:
        """See torch.distributed.Store. Raises ForgedError."""
        try:
            signed = bytes.fromhex(self._store.get(key).decode("ascii"))
        except ValueError:
            signed = b""
        return unsign(self._secret, key, signed)

    def add(self, key: str, amount: int) -> int:
        """See torch.distributed.Store."""
        return self._store.add(key, amount)

    def check(self, keys: list[str]) -> bool:
        """See torch.distributed.Store."""
        return self._store.check(keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """See torch.distributed.Store."""
        if timeout is None:
            self._store.wait(keys)
        else:
            self._store.wait(keys, timeout)

    def set_timeout(self, timeout: timedelta) -> None:
        """See torch.distributed.Store."""
        self._store.set_timeout(timeout)

    def delete_key(self, key: str) -> bool:
        """See torch.distributed.Store."""
        return self._store.delete_key(key)

    def num_keys(self) -> int:
        """See torch.distributed.Store."""
        return self._store.num_keys()

    def clone(self) -> "SignedStore":
        """See torch.distributed.Store."""
        self._clones.append(SignedStore(self._store.clone(), self._secret))  # type: ignore[attr-defined]
        return self._clones[-1]
