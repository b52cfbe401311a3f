"""Build the faults that a sanitizer must see."""

from setuptools import Extension, setup

setup(
    name="planted",
    packages=[],
    ext_modules=[Extension("planted", ["fuzz/sanitize/planted.pyx"])],
)
