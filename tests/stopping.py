"""A writer stopped in the middle of a write."""

import contextlib
import os

SMALL_BLOCK = 4096


@contextlib.contextmanager
def stopped(monkeypatch, path, writes, error=KeyboardInterrupt):
    """Raise `error` halfway through a write to the model, after so many whole ones."""
    write, done = os.pwrite, []

    def pwrite(descriptor, data, offset):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            if len(done) == writes:
                write(descriptor, data[: len(data) // 8 * 4], offset)
                raise error
            done.append(offset)
        return write(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        yield


def sabotage(monkeypatch, size, at, mask):
    """Flip bits of the byte at `at`: in what is written there, and once behind the writer's back."""
    write, done = os.pwrite, []

    def pwrite(descriptor, data, offset):
        data = bytearray(data)
        if os.fstat(descriptor).st_size < size:  # a marker
            pass
        elif offset <= at < offset + len(data):
            data[at - offset] ^= mask
            done.append(offset)
        elif not done:
            write(descriptor, bytes([os.pread(descriptor, 1, at)[0] ^ mask]), at)
            done.append(offset)
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    monkeypatch.setattr(os, "pwrite", pwrite)


def raising(number):
    """Return what a call to the operating system is put in place of, to fail with an errno."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call
