"""A Cython extension on dmi: the include directory, and the .pxd files of the package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import dmi

setup(
    ext_modules=cythonize(
        [Extension("embed_cython", ["embed_cython.pyx"], include_dirs=[dmi.get_include()])]
    )
)
