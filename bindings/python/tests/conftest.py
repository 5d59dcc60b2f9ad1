"""Time limits, and a family of processes for each test."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

import kit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120 * kit.SCALE))


@pytest.fixture
def family(tmp_path: pathlib.Path) -> Iterator[kit.Family]:
    with kit.Family(tmp_path) as family:
        yield family


@pytest.fixture
def tcp() -> str:
    return f"tcp://127.0.0.1:{kit.free_port()}"
