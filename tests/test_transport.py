"""Ranges of bytes: what is asked for, or one clear error; every answer is checked."""

import errno

import pytest

from answers import Answers, part_of
from truebits.files import transport
from truebits.files.transport import FsspecFile, HttpFile, RemoteChanged, RemoteError, ask, public

pytest.importorskip("urllib3")

URL = "https://user:secret@host.example:8443/folder/model.gguf?token=secret"
CONTENT = bytes(range(200))


def fetched(answers, start=0, stop=10, pinned=None):
    """Return what a range is read as, and the file."""
    file, got = HttpFile(answers, URL, {"Authorization": "Bearer t"}, pinned), bytearray()

    def write(at, piece):
        assert at == start + len(got)
        got.extend(piece)

    file.fetch(start, stop, write)
    return bytes(got), file


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 200), (199, 200), (50, 60), (190, 500), (7, 7)])
def test_a_range_is_what_was_asked_for(start, stop):
    answers = Answers(part_of(CONTENT, start, stop))
    got, file = fetched(answers, start, stop)
    assert got == CONTENT[start:stop]
    assert len(answers.asked) == (start < stop)
    for _, headers in answers.asked:
        assert headers == {
            "Accept-Encoding": "identity",
            "Authorization": "Bearer t",
            "Range": f"bytes={start}-{stop - 1}",
        }
        assert file.known == (200, '"1"')


def test_what_came_before_a_connection_broke_is_kept():
    short = (206, {"Content-Range": "bytes 0-9/200", "ETag": '"1"'}, CONTENT[:4])
    answers = Answers(short, part_of(CONTENT, 4, 10))
    assert fetched(answers)[0] == CONTENT[:10]
    assert [headers["Range"] for _, headers in answers.asked] == ["bytes=0-9", "bytes=4-9"]


def test_a_server_that_never_sends_a_byte_is_given_up():
    empty = (206, {"Content-Range": "bytes 0-9/200"}, b"")
    answers = Answers(*[empty] * 50)
    with pytest.raises(RemoteError, match="closes the connection at byte 0"):
        fetched(answers)
    assert len(answers.asked) == transport.MOST_RETRIES + 1


RANGE = "bytes 0-9/200"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {}, CONTENT), "does not send ranges"),
        ((206, {}, CONTENT[:10]), "says it sends nothing"),
        ((206, {"Content-Range": "bytes 1-9/200"}, CONTENT[:9]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": "bytes 0-10/200"}, CONTENT[:11]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": "bytes 0-8/200"}, CONTENT[:9]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": "bytes 0-9/*"}, CONTENT[:10]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": f"bytes 0-9/{'9' * 20}"}, CONTENT[:10]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": "items 0-9/200"}, CONTENT[:10]), "asked for bytes 0 to 9"),
        ((206, {"Content-Range": RANGE, "Content-Length": "11"}, CONTENT[:11]), "is said to be 11 bytes long"),
        ((206, {"Content-Range": RANGE, "Content-Encoding": "gzip"}, CONTENT[:10]), "the server sends gzip"),
        ((401, {}, b""), "HF_TOKEN"),
        ((403, {}, b""), "gated or private"),
        ((404, {}, b""), "is not there"),
        ((416, {}, b""), "lied about the size"),
        ((500, {}, b""), r"answers with an error \(HTTP 500\)"),
    ],
)
def test_answers_that_are_not_believed(answer, words):
    with pytest.raises(RemoteError, match=words) as caught:
        fetched(Answers(answer))
    assert "secret" not in str(caught.value)
    assert caught.value.errno == (errno.ENOENT if answer[0] == 404 else errno.EIO)


@pytest.mark.parametrize(("pinned", "expected"), [(None, RemoteChanged), ("a commit", None)])
def test_another_etag_is_another_file(pinned, expected):
    answers = Answers(part_of(CONTENT, 0, 10), part_of(CONTENT, 10, 20, ETag='"2"'))
    file = HttpFile(answers, URL, {}, pinned)
    file.fetch(0, 10, lambda *_: None)
    if expected is None:
        file.fetch(10, 20, lambda *_: None)
        assert file.known == (200, "a commit")
    else:
        with pytest.raises(expected, match="has changed at the server"):
            file.fetch(10, 20, lambda *_: None)


def test_a_file_that_grows_is_another_file():
    file = HttpFile(Answers(part_of(CONTENT, 0, 10), part_of(CONTENT + b"x", 10, 20)), URL, {})
    file.fetch(0, 10, lambda *_: None)
    with pytest.raises(RemoteChanged, match=r"200 bytes .* 201 bytes"):
        file.fetch(10, 20, lambda *_: None)


def test_nobody_there():
    from urllib3 import exceptions

    for error, words in (
        (exceptions.MaxRetryError(None, URL, exceptions.ResponseError("too many redirects")), "redirects without end"),
        (exceptions.MaxRetryError(None, URL, ConnectionRefusedError()), "cannot be reached: ConnectionRefusedError"),
        (exceptions.LocationParseError("x"), "cannot be reached: LocationParseError"),
        (ValueError("label too long"), "cannot be reached: ValueError"),
    ):
        with pytest.raises(RemoteError, match=words) as caught:
            ask(Answers(error), URL, {})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "https://host.example:8443/folder/model.gguf"),
        ("http://host/a", "http://host/a"),
        ("s3://bucket/key?versionId=1", "s3://bucket/key"),
        ("https://user@host/a#part", "https://host/a"),
    ],
)
def test_what_may_be_secret_is_left_out(url, expected):
    assert public(url) == expected


def test_a_wait_has_an_end():
    from urllib3 import HTTPResponse

    retries = transport.pool(1).connection_pool_kw["retries"]
    for told, expected in (("3", 3), ("99999", transport.LONGEST_WAIT)):
        assert retries.get_retry_after(HTTPResponse(headers={"Retry-After": told})) == expected
    assert retries.get_retry_after(HTTPResponse()) is None


def test_where_a_redirect_led_is_asked_again_without_the_token():
    """Until its address is good no more."""
    from urllib3.util.retry import RequestHistory, Retry

    place, parts = "https://elsewhere.example/x?signed", [part_of(CONTENT, at, at + 10) for at in (0, 10, 20, 30)]

    class Redirecting(Answers):
        def request(self, method, url, **named):
            answer = super().request(method, url, **named)
            if url == URL:
                answer.retries = Retry(history=(RequestHistory(method, url, None, 302, place),))
            return answer

    answers = Redirecting(parts[0], parts[1], (403, {}, b""), parts[2], parts[3])
    file, got = HttpFile(answers, URL, {"Authorization": "Bearer t"}), bytearray()
    for at in (0, 10, 20, 30):
        file.fetch(at, at + 10, lambda at, piece: got.extend(piece))
    assert bytes(got) == CONTENT[:40]
    assert [url for url, _ in answers.asked] == [URL, place, place, URL, place]
    assert ["Authorization" in headers for _, headers in answers.asked] == [True, False, False, True, False]


def test_a_store_of_fsspec():
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/transport.bin", CONTENT)
    got = bytearray(250)
    file = FsspecFile("memory://transport.bin")

    def write(at, piece):
        got[at : at + len(piece)] = piece

    file.fetch(150, 250, write)
    assert file.known.size == 200
    assert got[150:200] == CONTENT[150:]
    assert not any(got[200:])
    with pytest.raises(RemoteError, match="is not there") as caught:
        FsspecFile("memory://absent").fetch(0, 1, write)
    assert caught.value.errno == errno.ENOENT


def test_a_store_that_sends_less_is_not_believed(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/short.bin", CONTENT)
    file = FsspecFile("memory://short.bin")
    monkeypatch.setattr(file.system, "cat_file", lambda *_, **__: b"abc")
    with pytest.raises(RemoteError, match="asked for 10 bytes at 0, 3 came"):
        file.fetch(0, 10, lambda *_: None)
