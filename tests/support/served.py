"""A local server for downloads."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

NOWHERE = "http://127.0.0.1:9/"  # the discard port refuses at once


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Short(Quiet):
    """Announces more bytes than it sends."""

    def send_header(self, keyword, value):
        super().send_header(keyword, str(int(value) + 9) if keyword == "Content-Length" else value)


@pytest.fixture
def serve(tmp_path):
    """Yield ``serve(handler)``, which starts a local server and returns (address, folder)."""
    servers = []
    folder = tmp_path / "www"
    folder.mkdir()

    def start(handler=Quiet):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", folder

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
