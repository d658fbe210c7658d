"""Stand-in for the Hugging Face hub on this machine: the endpoints that huggingface_hub calls."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.remote.servers import serving

__all__ = ["Hub", "hub_server"]

_REPOSITORY = r"/api/models/([^/]+/[^/]+)"


@dataclass
class Hub:
    """Repositories by name, each with its commits, oldest first, as files by path.

    private: repositories that only ``token`` may read. sent: bytes of files sent so far.
    """

    address: str = ""
    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    token: str = "hf_right"
    sent: int = 0
    requests: list[str] = field(default_factory=list)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes] | None:
        commits = self.repositories[name]
        if revision == "main":
            return commits[-1]
        known = {_hash(name, number): files for number, files in enumerate(commits)}
        return known.get(revision)

    def head(self, name: str) -> str:
        return _hash(name, len(self.repositories[name]) - 1)


def _hash(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


class _Refused(Exception):
    """Answer other than success. code: the hub's own name for the error."""

    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    """Answers of a hub; a subclass states which."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, act: Any) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        try:
            status, headers, body = act(path)
        except _Refused as refused:
            status, headers = refused.status, {"X-Error-Code": refused.code}
            body = b"{}"
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if match := re.fullmatch(_REPOSITORY + r"(?:/revision/(.+))?", path):
            files = self._read(match[1], match[2] or "main")
            named = [{"rfilename": name} for name in files]
            return _as_json({"id": match[1], "sha": self.hub.head(match[1]), "siblings": named})
        if match := re.fullmatch(_REPOSITORY + r"/tree/([^/]+)(?:/(.*))?", path):
            files = self._read(match[1], match[2])
            if match[3]:
                raise _Refused(404, "EntryNotFound")
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in sorted(files.items())
            ]
            return _as_json(rows)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None:
            raise _Refused(404)
        data = self._read(match[1], match[2]).get(match[3])
        if data is None:
            raise _Refused(404, "EntryNotFound")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        assert asked is not None
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        self.hub.sent += last - first + 1
        headers = {
            "ETag": f'"{_oid(data)}"',
            "Content-Range": f"bytes {first}-{last}/{len(data)}",
        }
        return 206, headers, data[first : last + 1]

    def _post(self, path: str) -> tuple[int, dict[str, str], bytes]:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunked()
        if path == "/api/validate-yaml":
            return _as_json({})
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise _Refused(401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        match = re.fullmatch(_REPOSITORY + r"/(preupload|commit)/main", path)
        assert match is not None, path
        self._read(match[1], "main")
        if match[2] == "preupload":
            named = [{"path": x["path"]} for x in json.loads(body)["files"]]
            rows = [{**x, "uploadMode": "regular", "shouldIgnore": False} for x in named]
            return _as_json({"files": rows})
        return self._commit(match[1], [json.loads(x) for x in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return 409, {}, json.dumps(url).encode()
        self.hub.repositories[name] = [{}]
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(name)
        return _as_json(url)

    def _commit(self, name: str, lines: list[Any]) -> tuple[int, dict[str, str], bytes]:
        files = dict(self.hub.repositories[name][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[name].append(files)
        oid = self.hub.head(name)
        return _as_json({"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def _read(self, name: str, revision: str) -> dict[str, bytes]:
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if name not in self.hub.repositories or (name in self.hub.private and not allowed):
            raise _Refused(404 if allowed else 401, "RepoNotFound")
        files = self.hub.files(name, revision)
        if files is None:
            raise _Refused(404, "RevisionNotFound")
        return files

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    with serving(type("Handler", (_Handler,), {"hub": hub})) as hub.address:
        yield hub


def _as_json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
