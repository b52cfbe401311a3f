"""All extensions of this platform are used, or none: who decides, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import koko
from koko import native

pytestmark = pytest.mark.once

PACKAGE = Path(koko.__file__).parent
BUILT = all(native._fault(name) is None for name in native.EXTENSIONS)

each_extension = pytest.mark.parametrize("extension", native.EXTENSIONS)

# Both faces are imported whatever was chosen, and what a message goes through is asked for.
WHICH = """
import asyncio, warnings
from koko import aio, sync
from koko.aio.transport import ours
from koko.core.codec import Decoder, Inbox, IMPLEMENTATION
halves = [Decoder, Inbox, *aio.Conn.__mro__, *sync.Conn.__mro__]
natives = [half for half in halves if "._native" in half.__module__] + [ours] * (ours is not None)

async def echo(conn):
    async for message in conn:
        await conn.send(message)

async def main():
    async with aio.Server(echo, "127.0.0.1") as server:
        async with aio.dial("ws://127.0.0.1:%d" % server.address[1], proxy=None) as conn:
            await conn.send("x")
            assert await conn.recv(timeout=10) == "x"

asyncio.run(main())
print(IMPLEMENTATION, bool(natives))
"""

Damage = Callable[[Path], None]


def missing(library: Path) -> None:
    library.unlink()


def no_library(library: Path) -> None:
    library.write_bytes(b"not what it was")


def of_another_python(library: Path) -> None:
    library.rename(library.with_name(library.name.replace("cpython-3", "cpython-2")))


each_damage = pytest.mark.parametrize("damage", [missing, no_library, of_another_python])


def run(program: str, home: Path | None = None, **given: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "KOKO_CODEC"} | given
    if home is not None:
        env["PYTHONPATH"] = str(home)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def built() -> None:
    if not BUILT:
        pytest.skip("the native codec was not built here")


@pytest.fixture
def installed(built: None, tmp_path: Path) -> Path:
    """Return a place with a Koko of its own, which may be damaged."""
    shutil.copytree(PACKAGE, tmp_path / "koko")
    return tmp_path


def library_of(home: Path, extension: str) -> Path:
    (library,) = home.joinpath(*extension.split(".")[:-1]).glob(f"{extension.split('.')[-1]}.*.so")
    return library


def test_all_are_used_where_all_are_here(installed: Path) -> None:
    assert run(WHICH, installed).stdout == "native True\n"


def test_none_is_used_where_plain_python_was_asked_for(installed: Path) -> None:
    assert run(WHICH, installed, KOKO_CODEC="pure").stdout == "pure False\n"


@each_extension
def test_without_one_none_is_used(installed: Path, extension: str) -> None:
    library_of(installed, extension).unlink()
    assert run(WHICH, installed).stdout == "pure False\n"


@each_damage
def test_what_is_found_and_broken_is_said_once(installed: Path, damage: Damage) -> None:
    damage(library_of(installed, "koko.aio._native_transport"))
    done = run(WHICH, installed)
    assert done.stdout == "pure False\n"
    assert (
        done.stderr.count("RuntimeWarning: koko runs on its pure codec (koko.aio._native_tr") == 1
    )


@each_damage
def test_native_asked_for_by_name_is_had_or_is_an_error(installed: Path, damage: Damage) -> None:
    damage(library_of(installed, "koko.aio._native_transport"))
    done = run("import koko.sync", installed, KOKO_CODEC="native")
    assert "ImportError: KOKO_CODEC=native, but koko.aio._native_transport: " in done.stderr
    assert done.returncode == 1


def test_where_nothing_was_built_nothing_is_complained_of(installed: Path) -> None:
    for extension in native.EXTENSIONS:
        library_of(installed, extension).unlink()
    done = run(WHICH, installed)
    assert (done.stdout, done.stderr) == ("pure False\n", "")


@pytest.mark.parametrize(
    ("given", "why"),
    [({}, r"koko.core._native: not built"), ({"KOKO_CODEC": "pure"}, "KOKO_CODEC=pure")],
)
def test_the_version_says_which_and_why(installed: Path, given: dict[str, str], why: str) -> None:
    library_of(installed, "koko.core._native").unlink()
    done = run("from koko.cli import main; main(['--version'])", installed, **given)
    assert "(codec: pure, " in done.stdout
    assert f"the native codec is not used: {why}" in done.stdout


def test_to_decide_imports_nothing(built: None) -> None:
    done = run("import sys, koko.sync; print('asyncio' in sys.modules, *sys.modules)")
    loaded = done.stdout.split()
    assert loaded[0] == "False"
    assert not [name for name in loaded if name.startswith("koko.aio")]
    assert "koko.sync._native_fast_path" in loaded


def test_any_other_codec_is_an_error() -> None:
    with pytest.raises(ValueError, match="KOKO_CODEC='fast', expected 'native' or 'pure'"):
        native.choose("fast")


def test_every_source_is_built_on_linux() -> None:
    sources = {path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("_native*.pyx")}
    named = {".".join(("koko", *source.parts)) for source in sources}
    elsewhere = {name for name in named if name.endswith(("_poller", "_transport"))}
    assert set(native.EXTENSIONS) == (named if sys.platform == "linux" else named - elsewhere)
