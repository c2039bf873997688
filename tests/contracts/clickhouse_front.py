"""A small HTTP front over chDB: tests both ClickHouse clients where no server is installed.

Run as ``python -m tests.contracts.clickhouse_front DIRECTORY``: it prints its port and serves until
its stdin closes. It proves the client's path over HTTP; it proves nothing about authentication,
TLS or replication.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import pyarrow as pa

_INSERT = re.compile(
    rb"\s*INSERT INTO (?P<target>.+?)\s+FORMAT (?P<form>Native(?=\n)|Arrow)\n?",
    re.DOTALL | re.IGNORECASE,
)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
# What a request may set for its statement; everything else that a client sends is left out.
_SETTINGS = ("max_execution_time", "max_block_size", "preferred_block_size_bytes")
_CODE = re.compile(r"Code:\s*(\d+)")


class Front(BaseHTTPRequestHandler):
    """Answers like ClickHouse's HTTP interface, one statement at a time."""

    protocol_version = "HTTP/1.1"
    # Head and body in one packet: two would each wait for the other side's delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True
    engine: Any
    lock = threading.Lock()

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        else:
            self._run(b"", {})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length")
        body = b"".join(self._chunks()) if length is None else self.rfile.read(int(length))
        encoding = self.headers.get("Content-Encoding")
        if encoding:
            body = pa.CompressedInputStream(pa.BufferReader(body), encoding).read()
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/"):
            self._run(b"", _form_fields(kind, body))
        else:
            self._run(body, {})

    def log_message(self, *_args: Any) -> None:
        """Stay quiet."""

    def _chunks(self) -> Any:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _run(self, body: bytes, fields: dict[str, str]) -> None:
        fields = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)) | fields
        parameters = {name[6:]: text for name, text in fields.items() if name.startswith("param_")}
        settings = {name: fields[name] for name in _SETTINGS if name in fields}
        statement = fields.get("query", "").encode()
        try:
            with self.lock:
                answer = _execute(self.engine, statement + body, parameters, settings)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is its answer
            code = _CODE.search(str(error))
            headers = {"X-ClickHouse-Exception-Code": code[1] if code else "1001"}
            self._answer(500, str(error).encode(), headers)
        else:
            self._answer(200, answer)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        facts = {
            "Content-Length": str(len(body)),
            "X-ClickHouse-Summary": json.dumps({"written_rows": "0"}),
            "X-ClickHouse-Query-Id": "front",
            "X-ClickHouse-Timezone": "UTC",
        }
        for name, text in (facts | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)


def _form_fields(kind: str, body: bytes) -> dict[str, str]:
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = message_from_bytes(head + body, policy=policy.HTTP)
    fields = {}
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        fields[str(part.get_param("name", header="content-disposition"))] = payload.decode()
    return fields


def _execute(
    connection: Any, statement: bytes, parameters: dict[str, str], settings: dict[str, str]
) -> bytes:
    insert = _INSERT.match(statement)
    if insert is None:
        text = statement.decode()
        form = _FORMAT.search(text)
        if settings and form:
            clause = ", ".join(f"{name} = {value}" for name, value in settings.items())
            text = f"{text[: form.start()]} SETTINGS {clause}"
        result = connection.query(text, form[1] if form else "TabSeparated", params=parameters)
        return bytes(result.bytes() or b"")
    with tempfile.NamedTemporaryFile(suffix=".native", delete=False) as file:
        file.write(statement[insert.end() :])
    try:
        target = insert["target"].decode()
        payload = insert["form"].decode()
        connection.query(f"INSERT INTO {target} FROM INFILE '{file.name}' FORMAT {payload}")
    finally:
        Path(file.name).unlink()
    return b""


def main() -> None:
    """Serve the directory named on the command line."""
    Front.engine = chdb.connect(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    server.shutdown()
    Front.engine.close()


if __name__ == "__main__":
    main()
