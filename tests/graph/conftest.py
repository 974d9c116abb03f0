"""Each test has its own random state and parameter store."""

from tests.fresh_state import fresh_state  # noqa: F401
