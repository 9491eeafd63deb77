"""The life of a run, and what its network is asked afterwards.

``train`` tells the life in order: ``assemble`` builds data, network and callbacks, ``prepare``
makes the folder, ``trainer`` builds the trainer, trains and tests, ``summary`` writes down what
came of it. ``devices`` says what it computes on, ``resume`` what may change on the way; ``plan``
what a run would be, ``multirun`` trains several.

Afterwards ``inputs`` and ``networks`` say which network is asked, ``inputs``, ``data`` and
``unseen`` about which images; ``evaluate`` tests it, ``predict`` and ``explain`` ask it about any
pictures, by an ``explainer`` and its ``methods``.
"""
