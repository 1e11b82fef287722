"""An OpenTelemetry collector on loopback: it takes spans as OTLP over HTTP."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from servers.wire import Server


class OtlpServer(Server):
    """Keeps the requests; ``spans`` are those in them, as protocol buffers."""

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        handler.send_response(200 if path == "/v1/traces" else 404)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    @property
    def spans(self) -> list[Any]:
        """All spans so far, in the order of their start."""
        found = []
        for post in self.posts:
            body = gzip.decompress(post.body) if post.headers.get("Content-Encoding") == "gzip" else post.body
            request = ExportTraceServiceRequest.FromString(body)
            found += [
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]
        return sorted(found, key=lambda span: span.start_time_unix_nano)
