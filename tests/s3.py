"""A real S3 API server (moto) on loopback, and before it a door that can misbehave."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, final

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
Trouble = Literal["", "503", "403", "reset", "slow"]


@final
@dataclass(slots=True)
class Door:
    """Passes requests on to a server, in a thread for each, as it is told."""

    url: str = ""
    trouble: Trouble = ""
    """What requests meet; `slow` ones are answered after a second."""
    only: str = ""
    """Method of the requests that meet it; all of them by default."""
    times: int = -1
    """How many requests meet it; from then on none. Without end by default."""
    log: list[str] = field(default_factory=list)
    """Method and path of each request, in the order of arrival."""
    on_request: Callable[[str], None] = lambda _: None
    """Called with that text, before anything is passed on."""

    def draw(self, method: str) -> Trouble:
        """What this request meets."""
        if self.times == 0 or (self.only and method != self.only):
            return ""
        self.times -= 1
        return self.trouble

    def behave(self) -> None:
        """As at the beginning."""
        self.trouble, self.only, self.times = "", "", -1
        self.on_request = lambda _: None
        self.log.clear()


@contextmanager
def serve_s3(folder: Path) -> Iterator[tuple[Door, Mapping[str, str]]]:
    """The door to a server with an empty bucket `checkpoints`, and the environment that leads there."""
    with _free_port() as port:
        pass
    with open(folder / "moto.log", "wb") as log:
        words = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
    door = Door()
    try:
        _wait_for(port, server)
        maker = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        maker.request("PUT", "/checkpoints")
        assert maker.getresponse().status == 200
        maker.close()
        with _open_door(door, port):
            environment = KEYS | {"AWS_ENDPOINT_URL": door.url}
            yield door, environment
    finally:
        server.kill()
        server.wait()


@contextmanager
def in_environment(settings: Mapping[str, str]) -> Iterator[None]:
    """With these environment variables."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        yield probe.getsockname()[1]


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the S3 server did not answer in 60 s")


@contextmanager
def _open_door(door: Door, port: int) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            chunked = self.headers.get("Transfer-Encoding", "") == "chunked"
            body = self._chunks() if chunked else self.rfile.read(size)
            text = f"{self.command} {self.path}"
            door.log.append(text)
            door.on_request(text)
            trouble = door.draw(self.command)
            if trouble == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
                return
            if trouble in ("503", "403"):
                code = "SlowDown" if trouble == "503" else "AccessDenied"
                content = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                self._answer(int(trouble), {"Content-Type": "application/xml"}, content)
                return
            if trouble == "slow":
                time.sleep(1.0)
            inner = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            skip = {"connection", "transfer-encoding", "content-length", "expect"}
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skip}
            inner.request(self.command, self.path, body, headers)
            answer = inner.getresponse()
            content = answer.read()
            self._answer(answer.status, dict(answer.getheaders()), content)
            inner.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815 - as http.server has it

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client is gone
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as front:
        front.daemon_threads = True
        door.url = f"http://127.0.0.1:{front.server_address[1]}"
        thread = threading.Thread(target=front.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            front.shutdown()
            thread.join()
