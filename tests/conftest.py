"""Shared fixtures. Importing ``siren`` first makes the later ``import jittor`` work everywhere."""

from pathlib import Path

import pytest

import siren  # noqa: F401  (prepares Jittor's environment)

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def data():
    return DATA
