"""Answers of a server, as urllib3 gives them, without a server."""

from __future__ import annotations

from io import BytesIO
from typing import Any


class Answers:
    """A pool that gives the answers it was made of, one per request, and keeps what was asked.

    An answer is (status, headers, body), or an exception to raise.
    """

    def __init__(self, *answers: Any):
        self.left = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def request(self, method: str, url: str, headers: dict[str, str], preload_content: bool) -> Any:
        from urllib3 import HTTPResponse

        assert (method, preload_content) == ("GET", False)
        self.asked.append((url, headers))
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, given, body = answer
        return HTTPResponse(BytesIO(body), headers=given, status=status, preload_content=False)


def part_of(content: bytes, start: int, stop: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return a right answer to a request for a range."""
    stop = min(stop, len(content))
    given = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}", "ETag": '"1"'}
    return 206, {**given, **{name.replace("_", "-"): text for name, text in headers.items()}}, content[start:stop]
