"""A C++ extension whose standard containers live on a dmi heap."""

from setuptools import Extension, setup

import dmi

setup(
    ext_modules=[
        Extension(
            "embed_cpp",
            ["module.cpp"],
            include_dirs=[dmi.get_include()],
            extra_compile_args=["-std=c++17"],
            language="c++",
        ),
    ]
)
