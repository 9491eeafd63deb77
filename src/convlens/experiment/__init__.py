"""The life of a run, and what its network is asked afterwards.

``train`` tells the life in order: ``assemble`` builds data, network and callbacks, ``prepare``
makes the folder, ``trainer`` the trainer, ``fit`` trains and tests, ``summary`` writes down what
came of it. ``resume`` says what may change on the way; ``plan`` what a run would be, ``multirun``
trains several.

Afterwards ``checkpoints`` and ``networks`` say which network is asked, ``inputs`` and ``unseen``
about which images; ``evaluate`` tests it, ``predict`` and ``explain`` ask it about any pictures, by
an ``explainer``. What it answers goes into one kind of ``table``.
"""
