"""Reverse proxies that pass a WebSocket on, each as its manual says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from peers.catalog import program, said

_NGINX = """\
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{to};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""
_HAPROXY = """\
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend public
  bind 127.0.0.1:{port}
  default_backend koko
backend koko
  server one 127.0.0.1:{to}
"""
_CADDY = """\
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{to}
}}
"""


class Proxy(NamedTuple):
    """A reverse proxy: its name, its configuration, how it is run with that, its version."""

    name: str
    config: str
    run: Callable[[str], Sequence[str]]
    version: Callable[[], str]

    def command(self, folder: Path, port: int, to: int) -> Sequence[str]:
        """Return what runs it; it listens on one port and passes on to another."""
        config = folder / f"{self.name}.conf"
        config.write_text(self.config.format(folder=folder, port=port, to=to))
        return self.run(str(config))


PROXIES = [
    Proxy(
        "nginx",
        _NGINX,
        lambda config: (program("nginx"), "-c", config),
        lambda: said(program("nginx"), "-v").rpartition("/")[2],
    ),
    Proxy(
        "HAProxy",
        _HAPROXY,
        lambda config: (program("haproxy"), "-q", "-db", "-f", config),
        lambda: said(program("haproxy"), "-v").split()[2],
    ),
    Proxy(
        "Caddy",
        _CADDY,
        lambda config: (program("caddy"), "run", "--adapter", "caddyfile", "--config", config),
        lambda: said(program("caddy"), "version").split()[0],
    ),
]
