"""A browser for the tests of what a person opens in one."""

from support.browser import browser  # noqa: F401  a fixture
