"""Versions of the product and of what it stands on, read from the installation without importing anything."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("simplenet-automl", "torch", "timm", "optuna", "mlflow", "streamlit", "sqlalchemy")


def installed() -> dict[str, str]:
    """Name → version, Python's own included; 'not installed' where a package is absent."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": platform.python_version()}
