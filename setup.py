"""Packaging of hippylib_dino.

dolfin is not on PyPI: it comes from the distribution (see scripts/setup.sh), conda or Docker.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"

JAX = "jax>=0.5,<0.7.2"  # the last that runs with NumPy 1
ARVIZ = "arviz>=0.22,<1"
OPTUNA = "optuna>=3.6"
SCIKIT_LEARN = "scikit-learn>=1.3"


def version() -> str:
    """`__version__` of the package, read without importing it."""
    source = (ROOT / "hippylib_dino" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise ValueError('hippylib_dino/__init__.py: expected a line __version__ = "...", found none.')
    return match.group(1)


setup(
    name="hippylib_dino",
    version=version(),
    description="Derivative-informed neural operators for hIPPYlib",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="GPL-2.0-or-later",
    packages=find_packages(include=["hippylib_dino", "hippylib_dino.*"]),
    python_requires=">=3.11,<3.13",  # Zarr 3 needs 3.11, NumPy 1 has no wheels for 3.13
    install_requires=[
        "hippylib>=3.2,<4",
        "keras>=3.13,<4",  # whose Muon scales its steps
        "markdown-it-py>=2.2",
        "matplotlib>=3.6",
        "mpi4py>=3.1",
        "numpy>=1.24,<2",  # dolfin is built against NumPy 1
        "rich>=13",
        "scipy>=1.10",
        "tqdm>=4.64",
        "typer>=0.12",
        "zarr>=3.1.3,<4",  # writes each file whole or not at all
    ],
    extras_require={
        "cpu": ["tensorflow-cpu>=2.18,<3"],
        "gpu": ["tensorflow[and-cuda]>=2.18,<3"],
        "jax": [JAX],
        "baselines": [SCIKIT_LEARN],
        "mcmc": [ARVIZ],
        "search": [OPTUNA],
        "dev": ["mypy>=1.15", "pytest>=8", "pytest-xdist>=3.5", "ruff>=0.9", ARVIZ, JAX, OPTUNA, SCIKIT_LEARN],
    },
    entry_points={"console_scripts": ["hippylib-dino = hippylib_dino.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Mathematics",
    ],
)
