"""This machine's interfaces."""

from launcher.network import interface_of, interfaces


def test_the_loopback_interface_has_its_address() -> None:
    assert "127.0.0.1" in interfaces()["lo"]
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None, "an address for documentation, which nobody has"
