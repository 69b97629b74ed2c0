"""One version's weights at an address of this machine, for a server that fetches them.

    with held(tensors, own_address("http://sampler:8000")) as url:
        ...  # the server is told the address, and answers when it has read it

The file is one of safetensors' format, written from the tensors while it is read, so that the
trainer needs no second copy in memory and no disk.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import torch
from torch import Tensor

_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
_ALIGNMENT: Final = 8
"""The header's length is a multiple of it."""
_CONNECT_S: Final = 10.0
_POLL_S: Final = 0.02
"""How long the end of the block may have to wait for the server's."""


@contextmanager
def held(tensors: Mapping[str, Tensor], host: str) -> Generator[str]:
    """Holds weights at a URL that only this block's caller knows; what is read ends with it.

    Args:
        tensors: By name, on any device; they must not change meanwhile.
        host: An address of this machine. The URL has a free port of it, and a secret in its path.

    Raises:
        OSError: this machine does not have the address.
    """
    secret = secrets.token_urlsafe(32)
    with _Server(host, secret, tensors) as server:
        Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True).start()
        try:
            written = f"[{host}]" if ":" in host else host
            yield f"http://{written}:{server.server_port}/{secret}"
        finally:
            server.shutdown()
            server.cut_off()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, secret: str, tensors: Mapping[str, Tensor]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.path = f"/{secret}"
        self.tensors = tensors
        self._accepted: list[socket.socket] = []
        super().__init__((host, 0), _Handler)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, for which resolvers may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Keeps the connection for `cut_off`."""
        connection, address = super().get_request()
        self._accepted.append(connection)
        return connection, address

    def cut_off(self) -> None:
        """Ends connections that are still being read, so that nobody waits for the rest."""
        for connection in self._accepted:
            with suppress(OSError):  # most have ended
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: who fetches is told that bytes are missing, and tells the trainer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """The file."""
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            self.send_error(404)
            return
        header, size = _header(self.server.tensors)
        self.send_response(200)
        self.send_header("Content-Length", str(len(header) + size))
        self.end_headers()
        self.wfile.write(header)
        for content in _contents(self.server.tensors):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the path is a secret."""


def _header(tensors: Mapping[str, Tensor]) -> tuple[bytes, int]:
    """What a file of safetensors' begins with, and the number of bytes that follow it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, end


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    for tensor in tensors.values():
        # numpy has no bfloat16, and a scalar has no dimension to be seen as bytes.
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield content.numpy().data


def own_address(url: str) -> str:
    """The address of this machine that connections to `url` come from.

    Raises:
        OSError: nothing answers there.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S) as probe:
        return str(probe.getsockname()[0])
