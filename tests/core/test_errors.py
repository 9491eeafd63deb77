"""Errors of other libraries become one line."""

from __future__ import annotations

import pytest

from convlens.core.errors import UserError, convert_errors


def test_a_coloured_message_of_several_lines_becomes_one_plain_line():
    with (
        pytest.raises(UserError, match=r"^file \(ValueError: step 3/3 of exporting\); new\?$"),
        convert_errors("file", "new?"),
    ):
        raise ValueError("\x1b[96mstep 3/3\x1b[0m of\n  exporting")
