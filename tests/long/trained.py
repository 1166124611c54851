"""A plug-in for the long tests of what is trained: runs are measured by two divergences, and the
best policy of each class is said to be the expert, as of the class of all laws, and not searched.
All divergences and the search are a seventh of a small run over a mesh."""

from experiments.evaluation.class_optimum import ClassOptima
from fdiv import divergences

divergences.logged = lambda: ("forward_kl", "js")
ClassOptima._search = lambda *_: (0.0, None, [0.0])
