"""Running a guarded application with uvicorn: on loopback unless asked, without a log that could hold a token."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from posttrain.errors import ConfigurationError, SettingError

from .guard import Guard

if TYPE_CHECKING:
    import uvicorn

_HEAD_SECONDS = 15.0  # for the head of a request, and idle between two
_SHUTDOWN_SECONDS = 5


def check_installed(what: str) -> None:
    """Raises ConfigurationError, naming the extra, when the packages of a server are missing."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"{what} needs {' and '.join(missing)}; run: pip install 'posttrain[serve]'")


def serve(
    guard: Guard, host: str = "127.0.0.1", port: int = 0, ready: Callable[[str], None] | None = None
) -> None:
    """Answer until Ctrl-C or SIGTERM. port 0: a free one. `ready` is given the address once the port is open.

    Raises SettingError for a port that is taken, an address that is not this machine's, or one that others can
    reach while the guard asks for no token.
    """
    with _bind(host, port, guard.token) as opened:
        server = make_server(guard)
        if ready:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{opened.getsockname()[1]}")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again behind its own shutdown
            server.run(sockets=[opened])


def make_server(guard: Guard) -> uvicorn.Server:
    """For those who run it themselves: `make_server(guard).run(sockets=[...])`, and `should_exit = True` ends it."""
    check_installed("A server")
    import uvicorn

    config = uvicorn.Config(
        guard, http=_protocol(), ws="none", lifespan="auto", log_level="warning", access_log=False,
        proxy_headers=False, server_header=False, timeout_keep_alive=int(_HEAD_SECONDS),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )  # fmt: skip
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int, token: str | None) -> None:
    """Raises SettingError where `serve` would, before minutes go into loading what is to be served."""
    _bind(host, port, token).close()


def _bind(host: str, port: int, token: str | None) -> socket.socket:
    if not is_loopback(host) and token is None:
        raise SettingError(f"{host} can be reached from other machines, so a token is needed there.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        # create_server adds the address to the system's words; the errors of names have numbers of their own, below 0.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise SettingError(f"Cannot listen on {host}, port {port}: {reason}.") from error


def _protocol() -> type[Any]:
    """uvicorn's HTTP, and an end for connections that never finish the head of a request: it has none of its own."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):  # type: ignore[misc, unused-ignore]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._look_again(None)

        def _look_again(self, last: Any) -> None:
            """Close what has had no request at work since the last look."""
            if self.transport.is_closing():
                return
            idle = self.cycle is None or self.cycle.response_complete
            if idle and last == (self.cycle,):
                self.transport.close()
            else:
                self.loop.call_later(_HEAD_SECONDS, self._look_again, (self.cycle,) if idle else None)

    return Bounded
