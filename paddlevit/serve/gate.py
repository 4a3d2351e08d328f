"""Who is let in: places for pictures, and a count of every request to /predict."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import JSONResponse

from paddlevit.serve.metrics import Metrics


class Places:
    """A number of places that can be taken and given back; used by one thread.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0

    def take(self, count: int) -> bool:
        """Take some, all or none; returns whether there were enough."""
        enough = self.taken + count <= self.total
        self.taken += count * enough
        return enough

    def give_back(self, count: int) -> None:
        """Give back what was taken."""
        self.taken -= count


class Gate:
    """ASGI middleware: a request to /predict takes a place before any of its body is read, and is counted and timed.

    Args:
        app: What is behind the gate.
        places: One is taken for as long as a request lasts.
        metrics: Is told status and duration.
    """

    def __init__(self, app: Any, places: Places, metrics: Metrics) -> None:
        self._app, self._places, self._metrics = app, places, metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != "/predict":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noting(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        admitted = self._places.take(1)
        try:
            await (self._app if admitted else busy(self._places.total, 1))(scope, receive, noting)
        finally:
            self._places.give_back(int(admitted))
            self._metrics.answered(status, time.monotonic() - started)


def busy(total: int, seconds: int) -> JSONResponse:
    """The answer to a request for which there is no room.

    Args:
        total: Pictures that the server holds at a time.
        seconds: When to try again.
    """
    message = f"The server is busy with {total} pictures, its limit; try again in {seconds} s."
    return JSONResponse({"error": message}, 503, {"Retry-After": str(seconds)})
