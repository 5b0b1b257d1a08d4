"""Certificates for the tests: one authority, a server's for ``localhost`` and 127.0.0.1, and a client's.

The keys are in the open, and nothing but these tests trusts the authority. They are valid until 2126.
"""

from __future__ import annotations

import ssl
from pathlib import Path

KEYS = Path(__file__).parent / "keys"
AUTHORITY = KEYS / "ca.pem"
SERVER = (KEYS / "server.pem", KEYS / "server.key")
CLIENT = (KEYS / "client.pem", KEYS / "client.key")

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def server_context(version: ssl.TLSVersion | None = None, *, wants_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*SERVER)
    if wants_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(AUTHORITY)
    return of_version(context, version)


def client_context(version: ssl.TLSVersion | None = None, *, trusts: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusts:
        context.load_verify_locations(AUTHORITY)
    return of_version(context, version)


def of_version(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
