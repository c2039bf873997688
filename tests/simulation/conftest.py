"""The databases of the broker's tests, for the simulations too."""

from tests.broker.conftest import postgres_url, store_url

__all__ = ["postgres_url", "store_url"]
