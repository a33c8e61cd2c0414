"""A stand-in of the Hugging Face Hub: its HTTP interface for repositories of files, in memory."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


class Hub:
    """The repositories of a server, {name: {file: content}}, and what was asked of it.

    Weights go the way of large files: their content is uploaded first, the commit has its hash.
    """

    def __init__(self):
        self.repositories = {}
        self.created = []
        self.messages = []
        self.large = {}
        self.requests = []

    def answer(self, method, path, body):
        """Return status, headers and content."""
        self.requests.append(f"{method} {path}")
        match method, path.strip("/").split("/"):
            case "POST", ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if asked["organization"] == "somebody":
                    return 403, {}, b'{"error": "you do not have the rights"}'
                self.created.append(asked)
                self.repositories.setdefault(name, {})
                return _json({"url": f"{self.address}/{name}"})
            case "POST", ["api", "validate-yaml"]:
                return _json({"errors": [], "warnings": []})
            case "POST", ["api", "models", _, _, "preupload", "main"]:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("tensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                return _json({"files": files})
            case "POST", [_, _, "info", "lfs", "objects", "batch"]:
                objects = [
                    {**each, "actions": {"upload": {"href": f"{self.address}/large/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                return _json({"transfer": "basic", "objects": objects})
            case "PUT", ["large", oid]:
                assert hashlib.sha256(body).hexdigest() == oid
                self.large[oid] = body
                return 200, {}, b""
            case "POST", ["api", "models", user, name, "commit", "main"]:
                self._commit(self.repositories[f"{user}/{name}"], body)
                commit = self._commit_of(f"{user}/{name}")
                address = f"{self.address}/{user}/{name}/commit/{commit}"
                return _json({"commitUrl": address, "commitOid": commit})
            case "GET" | "HEAD", [user, name, "resolve", revision, file]:
                return self._file(f"{user}/{name}", revision, file)
        return 404, {}, b"{}"

    def _commit(self, files, body):
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                self.messages.append(value["summary"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])

    def _commit_of(self, repository):
        return hashlib.sha1(
            repr(sorted(self.repositories[repository].items())).encode()
        ).hexdigest()

    def _file(self, repository, revision, file):
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self._commit_of(repository)
        if revision not in ("main", "v1", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        headers = {"X-Repo-Commit": commit}
        content = self.repositories[repository].get(file)
        if content is None:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b"{}"
        etag = hashlib.sha256(content).hexdigest()
        return 200, {**headers, "ETag": f'"{etag}"'}, content


def _json(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextlib.contextmanager
def served():
    """A hub, while its server runs; its `address` is the server's."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else self._chunks()
            status, headers, content = hub.answer(self.command, urlparse(self.path).path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _chunks(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = _respond

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()
