"""The Flask site inside uWSGI, with a goodbye for its clients."""

import uwsgi

from koko.adapters.closing import close_all
from tests.adapters.flask_site import app as application

__all__ = ["application"]

uwsgi.atexit = close_all
