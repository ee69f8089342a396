"""This machine's network interfaces and addresses. Torch-free."""

import contextlib
import fcntl
import socket
import struct
from pathlib import Path

from launcher.errors import Problem, UserError


def address_of(endpoint: str) -> str:
    """This machine's address on the way to HOST:PORT; its own name may stand for a loopback address."""
    host, _, port = endpoint.rpartition(":")
    return address_towards(host.strip("[]"), int(port))


def address_towards(host: str, port: int) -> str:
    """The same; its full name where no way is known."""
    with contextlib.suppress(OSError):
        for family, kind, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)  # sends nothing
                return str(probe.getsockname()[0])
    return socket.getfqdn()


def free_port(job: int, number: int) -> int:
    """A port of this node for its agents' meeting, below those that Linux hands out itself."""
    # Jobs may share a node: each begins to look at another place, and each attempt of one too.
    for offset in range(1000):
        port = 20000 + (job * 17 + number + offset) % 12000
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind(("", port))
            return port
    raise UserError(Problem("rendezvous", "no port from 20000 to 31999 is free on this node"))


def interfaces() -> dict[str, list[str]]:
    """This machine's network interfaces and their addresses."""
    found: dict[str, list[str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an IPv4 address
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.setdefault(name, []).append(socket.inet_ntoa(answer[20:24]))
    path = Path("/proc/net/if_inet6")
    for line in path.read_text().splitlines() if path.exists() else []:
        raw, *_, name = line.split()
        found.setdefault(name, []).append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)))
    return found


def interface_of(address: str) -> str | None:
    """Name of this machine's network interface with an address; None where that is not known."""
    return next((name for name, addresses in interfaces().items() if address in addresses), None)


_SIOCGIFADDR = 0x8915
"""Linux's request for an interface's IPv4 address."""
