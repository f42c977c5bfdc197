"""A C extension on dmi: the include directory is all it takes."""

from setuptools import Extension, setup

import dmi

setup(
    ext_modules=[
        Extension("embed_c", ["module.c", "store.c"], include_dirs=[dmi.get_include()]),
    ]
)
