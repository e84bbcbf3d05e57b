"""The HTTP surface: `create_app` makes it of a reader, `serve` and `HttpServer` run it inside an event loop."""

from skillaudit.query.server.app import create_app
from skillaudit.query.server.serving import HttpServer, serve
from skillaudit.query.server.surface import ReadyReport

__all__ = ["HttpServer", "ReadyReport", "create_app", "serve"]
