"""The HTTP server: Uvicorn with limits for slow clients and for their number. Ctrl-C ends it at once."""

import asyncio
import logging
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVAL = 30.0  # seconds for a request to arrive, from the first byte to the last
PATIENCE = 60.0  # seconds in which a client must take something of its answer
CONNECTIONS = 100  # at once; a browser has 6


def run(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until a signal. KeyboardInterrupt on Ctrl-C, also while a model computes."""
    logging.getLogger("uvicorn.error").addFilter(is_fault)
    config = uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="off", log_level="error", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=0,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def is_fault(record: logging.LogRecord) -> bool:
    """Whether it is a fault of ours: not a client that left or sent no HTTP, and not an answer that Ctrl-C cut off."""
    return record.exc_info is not None and isinstance(record.exc_info[1], Exception)


class Protocol(H11Protocol):
    """Uvicorn's protocol, which drops clients that send or take nothing for too long."""

    arrival: asyncio.TimerHandle | None = None
    patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # asyncio does this only for sockets whose protocol number is given, which an accepted one's is not. Without it
        # an answer's body waits 40 ms for the acknowledgement of its head (Nagle's algorithm with delayed ones).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(0)  # so that pause_writing is called as soon as the client lags
        self.arrival = self.loop.call_later(ARRIVAL, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # the request is complete
            stop(self.arrival)
            self.arrival = None
        elif self.arrival is None:
            self.arrival = self.loop.call_later(ARRIVAL, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.patience = self.loop.call_later(PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        stop(self.patience)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        stop(self.arrival)
        stop(self.patience)


def stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
