"""The public API for notebooks and scripts; all other modules may change without notice.

>>> import convlens                                                 # doctest: +SKIP
>>> convlens.load("outputs/…/best.ckpt").explain("cat.jpg")         # doctest: +SKIP
>>> convlens.open_run("last").maps("grad_cam", epoch=7).values      # doctest: +SKIP
>>> convlens.wrap(my_network, ["cat", "dog"], size=224, normalisation="imagenet")  # doctest: +SKIP
"""

from convlens.experiment.explainer import Explainer
from convlens.experiment.explanation import Explanation
from convlens.experiment.networks import load, wrap
from convlens.rundir.maps import Maps
from convlens.rundir.read import StoredRun
from convlens.rundir.runs import open_run

__all__ = ["Explainer", "Explanation", "Maps", "StoredRun", "load", "open_run", "wrap"]
