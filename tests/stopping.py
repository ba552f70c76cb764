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
