"""A WSGI application that records a run for each request; `gunicorn --preload` makes it in the master."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from tests.faults.prefork import Application

APPLICATION = Application()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers with its process's id."""
    APPLICATION.work(int(environ["PATH_INFO"].strip("/")))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
