"""The names of options: what other libraries call them, and what they are called here."""

from __future__ import annotations

from collections.abc import Collection, Iterable

# What is named in the keys, in whichever spelling: its name here, and what that does. Where a
# client and a server differ there are several; the first that the call has is told.
_ELSEWHERE: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    ("timeout", "open_timeout", "connect_timeout"): (
        ("handshake_timeout", "bounds the opening handshake, in seconds"),
    ),
    ("read_timeout", "receive_timeout", "recv_timeout", "write_timeout", "timeout_keep_alive"): (
        ("ping_interval", "and ping_timeout= give up a dead peer; each verb has a timeout="),
    ),
    ("timeout_graceful_shutdown", "graceful_timeout", "shutdown_timeout"): (
        ("close_timeout", "bounds the goodbye, in seconds"),
    ),
    (
        *("max_size", "max_msg_size", "max_message_size", "max_payload_length", "max_payload"),
        *("ws_max_size", "websocket_max_message_size", "limit", "set_read_limit"),
    ): (("read_limit", "bounds a message, in bytes"),),
    (
        *("max_queue", "ws_max_queue", "write_limit", "max_backpressure", "recv_bufsize"),
        *("read_buffer_size", "write_buffer_pool", "buffer_size"),
    ): (("read_limit", "bounds a message; what waits unread or unsent is bounded by itself"),),
    (
        *("max_line_size", "max_header_size", "max_headers", "max_field_size"),
        *("h11_max_incomplete_event_size", "limit_request_field_size"),
    ): (("head_limit", "bounds a head, in bytes"),),
    (
        *("additional_headers", "extra_headers", "header", "http_headers", "request_header"),
        "custom_headers",
    ): (
        ("headers", "adds headers to the handshake"),
        ("http", "with upgrade(request, headers) adds headers to the answer"),
    ),
    ("headers", "process_response", "default_headers"): (
        ("http", "with upgrade(request, headers) adds headers to the answer"),
    ),
    (
        *("process_request", "on_request", "verify_client", "handle_protocols"),
        *("on_upgrade", "on_connect"),
    ): (("http", "answers requests, and check_origin= refuses handshakes"),),
    (
        *("heartbeat", "heartbeat_interval", "keepalive", "keep_alive", "autoping", "auto_ping"),
        *("ws_ping_interval", "websocket_ping_interval", "enable_auto_ping", "idle_timeout"),
    ): (("ping_interval", "sends pings to a silent peer, in seconds"),),
    ("ws_ping_timeout", "websocket_ping_timeout"): (
        ("ping_timeout", "is how long a ping may stay without an answer, in seconds"),
    ),
    (
        *("compress", "enable_compression", "per_message_deflate", "extensions"),
        *("ws_per_message_deflate", "compression_options", "websocket_extensions"),
    ): (("compression", "is True for permessage-deflate, or a Compression"),),
    ("protocols", "protocol", "subprotocol"): (("subprotocols", "is a list of names"),),
    (
        *("ssl_context", "sslopt", "ssl_options", "tls", "tls_client_config", "verify", "cert"),
        *("verify_ssl", "certfile", "keyfile", "ssl_certfile", "ssl_keyfile", "ssl_version"),
    ): (("ssl", "is an ssl.SSLContext"),),
    (
        *("http_proxy", "http_proxy_host", "proxy_url", "proxies", "proxy_type", "proxy_auth"),
        *("http_proxy_auth", "http_proxy_port"),
    ): (
        ("proxy", "is the URL of a proxy, with user and password"),
        ("trusted_proxies", "names the proxies in front that are believed"),
    ),
    ("forwarded_allow_ips", "proxy_headers", "xheaders", "trusted_hosts", "proxy_allow_from"): (
        ("trusted_proxies", "names the proxies in front that are believed"),
    ),
    ("user_agent_header",): (("user_agent", "is the header User-Agent"),),
    ("server_header",): (("http", "answers requests with headers of your own"),),
    ("auth", "authorization", "token"): (
        ("headers", "takes Authorization; user and password may stand in the URL"),
        ("http", "may refuse with HandshakeError(401, ...)"),
    ),
    ("cookies", "cookie", "cookie_jar"): (
        ("jar", "is an http.cookiejar.CookieJar; headers= takes a Cookie"),
    ),
    ("origin", "origins", "allowed_origins", "allow_origin", "suppress_origin"): (
        ("origins", "says which pages may connect"),
        ("origin", "is the header Origin"),
    ),
    ("local_addr", "family", "create_connection", "sockopt", "source_address", "socket_options"): (
        ("net_dial", "opens the connection in our place"),
    ),
    ("path", "unix_path", "uds", "unix"): (
        ("unix", "is the path of a Unix socket"),
        ("sock", "is a bound socket, as of a Unix socket"),
    ),
    ("sock", "fd", "socket", "server"): (
        ("sock", "is a socket of your own"),
        ("net_dial", "opens each connection in our place"),
    ),
    ("limit_concurrency", "worker_connections", "max_clients"): (
        ("max_connections", "bounds how many clients are served at once"),
    ),
    ("redirect_limit", "follow_redirects", "redirects"): (
        ("max_redirects", "is how many redirects are followed"),
    ),
    ("access_log", "log_level", "log_config"): (
        ("logger", "is where to log, with a level of its own"),
    ),
}
_BY_NAME = {
    name.replace("_", ""): meanings for names, meanings in _ELSEWHERE.items() for name in names
}


def check_names(call: str, known: Collection[str], given: Iterable[str]) -> None:
    """Raise TypeError for an option that ``call`` does not have; say what it is called here."""
    for name in given:
        if name not in known:
            raise TypeError(f"{call} has no option {name!r}{_hint(name, known)}")


def _hint(name: str, known: Collection[str]) -> str:
    # Go and JavaScript write the same names as MaxPayload and maxPayload.
    spelled = name.replace("_", "").lower()
    for here in known:
        if here.replace("_", "") == spelled:
            return f"; write {here}="
    meanings = _BY_NAME.get(spelled, ())
    for here, what in meanings:
        if here in known:
            return f"; {here}= {what}"
    if meanings:
        return ""  # it means something that this call does not have
    from difflib import get_close_matches  # 26 ms, only for a mistake

    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}=?" if near else ""
