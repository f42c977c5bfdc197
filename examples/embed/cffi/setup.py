"""A cffi extension, compiled against dmi.h and linked with the library."""

from setuptools import setup

setup(cffi_modules=["build_embed_cffi.py:ffi"])
