"""Build the native codec where this machine can; all else stands in pyproject.toml.

Without a C compiler the package is whole on the pure codec, so a failed build is one
line and not an error. ``KOKO_CODEC`` chooses by hand here as it does at run time: with
``native`` a build that fails is an error again, with ``pure`` nothing is built.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

CODEC = os.environ.get("KOKO_CODEC", "")

NATIVE = [
    "koko.core._native",
    "koko.core._native_inbox",
    "koko.aio._native_reflex",
    "koko.sync._native_reflex",
]
if sys.platform == "linux":
    NATIVE += ["koko.aio._native_poller", "koko.aio._native_transport"]

native = [
    Extension(
        name,
        [f"src/{name.replace('.', '/')}.pyx"],
        extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
        optional=CODEC != "native",
    )
    for name in NATIVE
]


class BuildNative(build_ext):
    """Say in one line what a failed build means, instead of a compiler's page."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            if not ext.optional:
                raise
            print(f"koko: no native codec ({error}); installing with the pure-Python codec only")


setup(
    ext_modules=[] if CODEC == "pure" else native,
    cmdclass={"build_ext": BuildNative},
)
