"""A client of the Language Server Protocol, as small as these tests allow: one server, requests one after another."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class LanguageServer:
    """yaml-language-server under node, spoken to over its standard input and output."""

    def __init__(self, program: str, root: Path) -> None:
        self._process = subprocess.Popen(
            [program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
        )
        self._numbers = 0
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        capabilities = {"workspace": {"configuration": True}, "textDocument": {"completion": {}, "hover": {}}}
        place = {"processId": os.getpid(), "rootUri": root.as_uri(), "capabilities": capabilities}
        self.request("initialize", place)
        self.notify("initialized", {})

    def close(self) -> None:
        """Ask the server to end, and wait."""
        self.request("shutdown", None)
        self.notify("exit", None)
        self._process.communicate(timeout=30)

    def open(self, path: Path, text: str) -> str:
        """Show the server a file's text, and return its URI once its diagnostics are there."""
        path.write_text(text, encoding="utf-8")
        uri = path.as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        while uri not in self.diagnostics:
            self._take(self._read())
        return uri

    def hover(self, uri: str, line: int, column: int) -> str:
        """Return the text that an editor shows over a place; both count from 0."""
        found = self._at("textDocument/hover", uri, line, column)
        contents = found["contents"] if found else ""
        return str(contents["value"] if isinstance(contents, dict) else contents)

    def complete(self, uri: str, line: int, column: int) -> list[str]:
        """Return what an editor offers at a place."""
        found = self._at("textDocument/completion", uri, line, column)
        items = found["items"] if isinstance(found, dict) else found or []
        return [item["label"] for item in items]

    def _at(self, method: str, uri: str, line: int, column: int) -> Any:
        return self.request(method, {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}})

    def request(self, method: str, parameters: Any) -> Any:
        """Send a request and return its result; raise RuntimeError where the server refuses it."""
        self._numbers += 1
        number = self._numbers
        self._send({"id": number, "method": method, "params": parameters})
        while True:
            message = self._read()
            if message.get("id") == number and "method" not in message:
                if "error" in message:
                    raise RuntimeError(message["error"])
                return message.get("result")
            self._take(message)

    def notify(self, method: str, parameters: Any) -> None:
        """Send what has no answer."""
        self._send({"method": method, "params": parameters})

    def _take(self, message: dict[str, Any]) -> None:
        """Keep diagnostics, and answer what the server asks."""
        method = message.get("method")
        if method == "textDocument/publishDiagnostics":
            self.diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "id" in message:
            items = message["params"].get("items", []) if method == "workspace/configuration" else []
            self._send({"id": message["id"], "result": [_configure(item["section"]) for item in items]})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        length = 0
        while (line := stream.readline().strip()) or not length:
            if not line and self._process.poll() is not None:
                raise RuntimeError(f"the language server ended with exit code {self._process.returncode}")
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        message: dict[str, Any] = json.loads(stream.read(length))
        return message


def _configure(section: str) -> Any:
    """Return the settings of a section: those of an editor that was told nothing, without the network."""
    return (
        {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}
        if section == "yaml"
        else {}
    )
