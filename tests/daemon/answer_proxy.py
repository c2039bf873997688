"""A man in the middle who changes what a venue answers: documents, headers and frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tests.market.fault_proxy import FaultProxy

Document = Any
Rewrite = Callable[[str, Mapping[str, str], Document], Document]


class AnswerProxy(FaultProxy):
    """Passes everything on with the venue's headers, except for what a test rewrites.

    Attributes:
        change: maps (path, query, document) to the document that the client gets.
        dropped_headers: lower-case names that the client does not get.
    """

    def __init__(self, upstream: str) -> None:
        """Change nothing."""
        super().__init__(upstream)
        self.change: Rewrite = lambda _path, _query, document: document
        self.dropped_headers: set[str] = set()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        own = request.path.startswith("/sandbox/")
        if request.headers.get("Upgrade") or self.answer(request.path_qs) is not None:
            return await super()._serve(request)
        async with self._session.get(self._upstream + request.path_qs) as answer:
            text = await answer.text()
            if not own:
                document = self.change(request.path, request.query, json.loads(text))
                text = json.dumps(document)
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name.lower().startswith("x-") and name.lower() not in self.dropped_headers
            }
            return web.json_response(text=text, status=answer.status, headers=headers)
