"""Wraps a connection in TLS. Imported for ``rediss://`` only: `ssl` takes a megabyte that a plain connection can do
without."""

from __future__ import annotations

import socket
import ssl

from engine_redis.address import Address


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when nobody has it any more, as a plain one does."""

    def __del__(self) -> None:
        self.close()


def wrapped(sock: socket.socket, address: Address, host: str) -> socket.socket:
    """Returns the encrypted connection, after the handshake. Raises OSError (ssl errors are)."""
    context = ssl.create_default_context(cafile=address.ca_file)
    context.sslsocket_class = _TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if address.cert_file:
        context.load_cert_chain(address.cert_file, address.key_file)
    return context.wrap_socket(sock, server_hostname=host)
