"""Which of the twins is used, and who says so."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

import koko.core
from koko.core import _codec, _inbox, codec

NATIVE = ("_native", "_native_inbox")


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ...]:
    """Put modules in the native codec's place, built or not."""
    modules = tuple(ModuleType(f"koko.core.{name}") for name in NATIVE)
    for name, module in zip(NATIVE, modules, strict=True):
        monkeypatch.delattr(koko.core, name, raising=False)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return modules


@pytest.fixture(params=NATIVE)
def no_native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the native modules away: all of them are used or none is."""
    monkeypatch.delattr(koko.core, request.param, raising=False)
    monkeypatch.setitem(sys.modules, f"koko.core.{request.param}", None)


@pytest.mark.parametrize("wanted", ["", "native"])
def test_native_codec_is_used_where_it_was_built(
    native: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("KOKO_CODEC", wanted)
    assert codec._choose() == native


def test_pure_codec_can_be_asked_for(
    native: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOKO_CODEC", "pure")
    assert codec._choose() == (_codec, _inbox)


def test_pure_codec_stands_in_where_the_native_one_was_not_built(
    no_native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KOKO_CODEC", raising=False)
    assert codec._choose() == (_codec, _inbox)


def test_native_codec_asked_for_and_not_built_is_an_error(
    no_native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOKO_CODEC", "native")
    with pytest.raises(ImportError, match="the native codec was not built"):
        codec._choose()


def test_any_other_codec_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKO_CODEC", "fast")
    with pytest.raises(ValueError, match="KOKO_CODEC='fast', expected 'native' or 'pure'"):
        codec._choose()
