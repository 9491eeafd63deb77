"""A server of downloads and a miniature data set."""

from support.pets_drawn import drawn  # noqa: F401  a fixture
from support.served import serve  # noqa: F401  a fixture
