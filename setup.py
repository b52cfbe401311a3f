"""Build the native extensions where this machine can; all else stands in pyproject.toml.

All of them or none. Without a C compiler the package is whole on the pure codec, so a
failed build is one line and not an error. ``KOKO_CODEC`` chooses by hand here as it does
at run time: with ``native`` a build that fails is an error, with ``pure`` nothing is built.
"""

import os
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

CODEC = os.environ.get("KOKO_CODEC", "")
EXTENSIONS = runpy.run_path("src/koko/native.py")["EXTENSIONS"]

native = [
    Extension(
        name,
        [f"src/{name.replace('.', '/')}.pyx"],
        extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
    )
    for name in EXTENSIONS
]


class BuildNative(build_ext):
    """Say in one line what a failed build means, instead of a compiler's page."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:
            self.discard()
            if CODEC == "native" or not isinstance(error, (BaseError, CCompilerError)):
                raise
            print(f"koko: no native codec ({error}); installing with the pure-Python codec only")

    def discard(self) -> None:
        """Leave none of the extensions behind, of this build or of one before."""
        for extension in self.extensions:
            library = self.get_ext_filename(self.get_ext_fullname(extension.name))
            for where in (self.build_lib, "src"):
                Path(where, library).unlink(missing_ok=True)
        self.extensions = []


setup(
    ext_modules=[] if CODEC == "pure" else native,
    cmdclass={"build_ext": BuildNative},
)
