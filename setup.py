"""Packages of the installed suite; all other metadata is in setup.cfg."""

from setuptools import find_packages, setup

LAYERS = ("frames", "data", "parsers", "retrieval", "lightning_modules", "assistants", "scripts")

setup(
    # The bundles under models/ are the data of a package of their own, for `framefill parse` to find them when installed.
    packages=[
        *find_packages(include=[pattern for name in LAYERS for pattern in (name, f"{name}.*")]),
        "assistants.models",
    ],
    package_dir={"assistants.models": "models"},
    package_data={
        "data": ["*.tsv"],
        "data.topv2": ["SHA256SUMS"],
        "assistants.models": ["README.md", "*/*"],
        "assistants.serving": ["static/*"],
    },
    # Together with weights for training and the bundle of a base-size encoder the wheel would be too large for an index.
    exclude_package_data={"assistants.models": ["weights/*", "raf-mpnet-topv2/*"]},
)
