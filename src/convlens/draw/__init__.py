"""Draw maps as labelled panels: images and maps in, pictures (uint8 ``(H, W, 3)``) out.

This package knows no network, run or logger. It is deterministic and draws no random numbers.
A panel is drawn by the function with the name of its file, such as
``convlens.draw.activation_grid.activation_grid``. The modules ``picture``, ``canvas``, ``colour``,
``palette`` and ``text`` hold the parts that panels are made of.
"""
