"""An HTTP server in front of a tracking server, which fails when told to."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal


class Gate:
    """An HTTP server in front of MLflow's: passes on, gives one answer to all, or hangs until released."""

    def __init__(self, upstream: str) -> None:
        self.mode: Literal["pass", "hang"] | tuple[int, bytes] = "pass"
        self.asked = threading.Event()
        self.released = threading.Event()
        self.received: list[bytes] = []
        """The body of every request."""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gate.asked.set()
                gate.received.append(body)
                if gate.mode == "hang":
                    gate.released.wait()
                    return
                status, answer = gate.mode if isinstance(gate.mode, tuple) else self.forward(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

            def forward(self, body: bytes) -> tuple[int, bytes]:
                headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                request = urllib.request.Request(
                    upstream + self.path, data=body or None, headers=headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request) as response:
                        return response.status, response.read()
                except urllib.error.HTTPError as error:
                    return error.code, error.read()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
