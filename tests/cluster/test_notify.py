"""Notices of an ending."""

import http.server
import json
import threading
from pathlib import Path

from cluster.notify import notify

RECORD = {"run": "/runs/it's $HOME", "ending": "hang", "reason": "rank 1 is stopped"}


def test_a_command_gets_the_record_on_stdin_and_in_its_environment(tmp_path: Path) -> None:
    command = f'cat > {tmp_path}/in; echo "$LAUNCH_RUN|$LAUNCH_ENDING" > {tmp_path}/env'
    assert notify(command, RECORD) is None
    assert json.loads((tmp_path / "in").read_text()) == RECORD
    assert (tmp_path / "env").read_text() == "/runs/it's $HOME|hang\n"


def test_a_command_that_fails_is_reported_in_a_line() -> None:
    assert notify("echo no pager >&2; exit 3", RECORD) == "ended with 3: no pager"


def test_a_url_gets_the_record_as_json() -> None:
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert notify(f"http://127.0.0.1:{server.server_port}/hook", RECORD) is None
        thread.join()
        port = server.server_port
    assert received == [RECORD]
    problem = notify(f"http://127.0.0.1:{port}/hook", RECORD)
    assert problem is not None
    assert "refused" in problem
