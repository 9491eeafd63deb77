"""The steps of a run, and what can be done with its network afterwards.

``train`` lists the steps of a run in order: ``assemble`` builds data, network and callbacks,
``prepare`` makes the run folder, ``trainer`` builds the trainer, trains and tests, ``summary``
writes the results. ``devices`` chooses devices and precision, ``resume`` checks what may change
when a run is resumed, ``plan`` describes a run before it is trained, ``multirun`` trains several.

After training, ``inputs`` and ``networks`` find the network; ``inputs``, ``data`` and ``unseen``
find the images. ``evaluate`` tests a checkpoint. ``predict`` and ``explain`` apply it to any
images, through an ``explainer`` and its ``methods``.
"""
