"""Maps to labelled panels: images and maps in, uint8 pictures ``(H, W, 3)`` out.

Nothing here knows a network, a run or a logger. Everything is deterministic and draws no random
number. A panel has the name of its file: ``from convlens.draw.activation_grid import
activation_grid`` (``grad_cam_panel``, ``filter_sheet``, ``charts``, ``jpeg`` likewise);
``image``, ``canvas``, ``colour``, ``palette`` and ``text`` are what panels are made of.
"""
