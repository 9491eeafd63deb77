"""The public API for notebooks and scripts; all other modules may change without notice.

>>> import convlens                                                 # doctest: +SKIP
>>> convlens.load("outputs/…/best.ckpt").explain("cat.jpg")         # doctest: +SKIP
>>> convlens.wrap(my_network, ["cat", "dog"], size=224, normalisation="imagenet")  # doctest: +SKIP
"""

from convlens.experiment.explainer import Explainer
from convlens.experiment.methods import Explanation
from convlens.experiment.networks import load, wrap

__all__ = ["Explainer", "Explanation", "load", "wrap"]
