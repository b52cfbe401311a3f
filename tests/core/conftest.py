"""The twins: what is said of the codec is said of both."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from koko.core.deflate import Agreed
from koko.core.wire import Role
from tests.codecs import CODECS

MODULES = {"pure": "_codec", "native": "_native"}


@pytest.fixture(params=[MODULES[codec] for codec in CODECS])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation of the codec in turn."""
    try:
        return importlib.import_module(f"koko.core.{request.param}")
    except ImportError:
        pytest.skip("the native codec was not built here")


@pytest.fixture
def inflating(codec: ModuleType) -> Callable[..., Any]:
    """Make decoders that read what was sent after compression was agreed."""

    def make(role: Role = Role.CLIENT, **limits: int) -> Any:
        return codec.Decoder(role, inflater=Agreed().inflater(role), **limits)

    return make
