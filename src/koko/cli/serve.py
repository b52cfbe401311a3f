"""``koko serve``: an echo or a broadcast server, on either face.

This module has what both faces share: options, TLS, the log and the line that says where it
listens. The handlers are in ``with_aio`` and ``with_sync``; only one of them is imported.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import ssl
from typing import Any

from koko.cli.failure import Failure
from koko.opening.address import written
from koko.upgrading import UpgraderOptions


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes and return the exit code."""
    if args.face == "sync" and args.loop != "auto":
        raise Failure(f"--loop {args.loop} is for --face aio; threads need no event loop")
    start_log(args.quiet)
    context = _tls(args.certfile, args.keyfile)

    def announce(server: Any) -> None:
        host, port = server.address[:2]
        where = written((host, port))
        print(f"listening on {'wss' if context else 'ws'}://{where}", flush=True)

    importlib.import_module(f"koko.cli.with_{args.face}").run(
        args.what,
        args.loop,
        host=args.host,
        port=args.port,
        ssl=context,
        on_start=announce,
        **_options(args),
    )
    return 0


def start_log(quiet: bool) -> None:
    """Log to stderr, a line for the end of each connection; or nothing at all."""
    logging.basicConfig(
        level=logging.CRITICAL + 1 if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )


def _options(args: argparse.Namespace) -> UpgraderOptions:
    return {
        "origins": args.origin,
        "trusted_proxies": args.trusted_proxy,
        "read_limit": args.read_limit,
        "compression": args.compression,
        "handshake_timeout": args.handshake_timeout,
        "ping_interval": args.ping_interval or None,
    }


def _tls(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    if certfile is None:
        if keyfile is not None:
            raise Failure(f"--keyfile {keyfile} needs --certfile: TLS needs the certificate, too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        raise Failure(f"no certificate and key in {certfile}, {keyfile}: {error}") from None
    return context
