"""What every test shares: one thread per library and one embedded store per test process.

chDB serves one path per process, so all tests of a run share one warehouse. A test keeps its rows
apart with its own ``venue_name``, or asks for ``empty_warehouse`` when it must use a real one.
"""

from __future__ import annotations

import os

# Before numpy and torch are imported: their thread pools spin on small machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from market.tables import TABLE_NAMES

if TYPE_CHECKING:
    from market.warehouse import Warehouse

# How long an example takes says more about the machine's load than about the code.
settings.register_profile("ballast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ballast")

_VENUE_NUMBERS = count(1)


@pytest.fixture(scope="session")
def warehouse_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only directory that chDB may open in this test process (URL: ``chdb://`` + path)."""
    return tmp_path_factory.mktemp("warehouse") / "chdb"


@pytest.fixture(scope="session")
def warehouse(warehouse_path: Path) -> Iterator[Warehouse]:
    """The shared embedded warehouse, open for the whole run; never close it in a test.

    Code under test may open (and close) the same path a second time in this process.
    """
    from market.warehouse import Warehouse

    store = Warehouse.open(f"chdb://{warehouse_path}")
    yield store
    store.close()


@pytest.fixture
def empty_warehouse(warehouse: Warehouse) -> Warehouse:
    """The shared warehouse with every row removed, for tests that use a real venue's name."""
    for name in TABLE_NAMES:
        warehouse._command(f"TRUNCATE TABLE {name}")
    return warehouse


@pytest.fixture
def venue_name() -> str:
    """A venue name that no other test uses, so that rows of tests do not meet."""
    return f"venue_{next(_VENUE_NUMBERS)}"
