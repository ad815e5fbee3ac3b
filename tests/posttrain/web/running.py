"""A guarded application on a free port of this machine, for the time of a test."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from posttrain.web import Guard, make_server


@contextlib.contextmanager
def running(guard: Guard) -> Iterator[str]:
    """Its address: "http://127.0.0.1:PORT"."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        server = make_server(guard)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()
