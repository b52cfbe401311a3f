"""Build the planted faults that the sanitizers must find."""

from setuptools import Extension, setup

setup(
    name="planted",
    packages=[],
    ext_modules=[Extension("planted", ["fuzz/sanitize/planted.pyx"])],
)
