"""A server of files on this machine, with faults to order; and a stand-in for the hub's API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Server(ThreadingHTTPServer):
    """Serves what is in `files`, by path; `fault` names what goes wrong.

    Attributes
    ----------
    files : dict of str to bytes or Path
    sent : int
        Bytes of file contents.
    asked : list of (str, str, str)
        Path, Range and Authorization of every request.
    links : dict of str to dict of str to str
        Headers of the API's answers, by path: where the next page is.
    hanging, over : Event
        With the fault "hangs": a request for a range is not answered; nor will it be before it is over.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, Any], fault: str = "", other: str = ""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.fault = fault
        self.other = other
        self.sent = 0
        self.asked: list[tuple[str, str, str]] = []
        self.etag = '"one"'
        self.links: dict[str, dict[str, str]] = {}
        self.lock = threading.Lock()
        self.hanging, self.over = threading.Event(), threading.Event()

    def handle_error(self, *arguments: object) -> None:
        """Nothing: who has enough closes the connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        with server.lock:
            server.asked.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
            number = len(server.asked)
        match server.fault:
            case "busy" if number % 3:
                return self.answer(503, Retry_After="0")
            case "forever" | "elsewhere":
                target = f"{server.other}{path}" if server.fault == "elsewhere" else f"{server.url}{path}?{number}"
                return self.answer(302, Location=target)
            case "hangs" if self.headers.get("Range", "") and number > 1:
                server.hanging.set()
                server.over.wait(60)
                return None
            case "forbidden":
                return self.answer(403)
            case "gated":
                return self.answer(401)
            case "waits for ever" if number == 1:
                return self.answer(503, Retry_After="1000000000")
        path = self.path if self.path in server.files else path
        if path not in server.files:
            return self.answer(404)
        content = server.files[path]
        if not isinstance(content, Path) and content[:1] in (b"{", b"[") and "/api/" in path:
            return self.answer(200, content, **server.links.get(path, {}))
        return self.ranged(content, number)

    def ranged(self, content: bytes | Path, number: int) -> None:
        server = self.server
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or server.fault == "no ranges":
            return self.answer(200, self.cut(content, 0, min(size, 1 << 20)))
        first, last = int(asked[1]), min(int(asked[2]), size - 1)
        if first >= size:
            return self.answer(416)
        body = self.cut(content, first, last + 1)
        headers = {"Content_Range": f"bytes {first}-{last}/{size}", "ETag": server.etag}
        match server.fault:
            case "lies about the size":
                headers["Content_Range"] = f"bytes {first}-{last}/{size + 4096}"
            case "another range":
                headers["Content_Range"] = f"bytes {first + 1}-{last}/{size}"
            case "no Content-Range":
                del headers["Content_Range"]
            case "gzip":
                headers["Content_Encoding"] = "gzip"
            case "changes":
                headers["ETag"] = f'"{number}"'
            case "short":
                headers["Content_Length"] = str(len(body) + 7)
            case "closes" | "closes at once":
                whole = len(body)
                body = body[: (whole + 1) // 2] if server.fault == "closes" else b""
                headers["Content_Length"] = str(whole)
                self.close_connection = True
        with server.lock:
            server.sent += len(body)
        return self.answer(206, body, **headers)

    @staticmethod
    def cut(content: bytes | Path, start: int, stop: int) -> bytes:
        if not isinstance(content, Path):
            return content[start:stop]
        with content.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@contextmanager
def serving(files: dict[str, Any], fault: str = "", other: str = "") -> Iterator[Server]:
    """Serve files while the block runs."""
    server = Server(files, fault, other)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def repository(name: str, files: dict[str, Any], listed: list[Any] | None = None) -> dict[str, Any]:
    """Return what the hub's stand-in serves: the API's answer and the files of one repository at its commit."""
    names = list(files) if listed is None else listed
    answer = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": one} for one in names]}).encode()
    return {
        f"/api/models/{name}/revision/main": answer,
        f"/api/models/{name}/revision/v1": answer,
        **{f"/{name}/resolve/{COMMIT}/{file}": content for file, content in files.items()},
    }
