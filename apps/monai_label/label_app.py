"""MONAI Label's web application with two additions.

If the bundle raises an error, the response is its message; MONAI Label itself responds "Internal Server Error" and
writes the reason only to its log. And requests from pages of other sites, open in a browser on this machine, are
refused, because a request's options can run code (see docs/how_to/monai_label.md).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from input_errors import input_error
from monailabel.app import app

logger = logging.getLogger("bundle")

OWN_HOSTS = ("127.0.0.1", "localhost")


@app.middleware("http")
async def refuse_other_sites(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse requests that a browser sends from a page of another site; other programs send no origin."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).hostname not in OWN_HOSTS:
        return JSONResponse({"detail": f"requests from {origin} are refused."}, status_code=403)
    return await go_on(request)


@app.middleware("http")
async def answer_in_one_line(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Turn the bundle's ``InputError`` into a response with status 400."""
    try:
        return await go_on(request)
    except Exception as error:
        line = input_error(error)
        if line is None:
            raise
        logger.error(line)
        return JSONResponse({"detail": line}, status_code=400)
