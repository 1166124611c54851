"""A plug-in for the long tests: runs are measured by two divergences. All of them are a quarter of
what a small run traces."""

from fdiv import divergences

divergences.logged = lambda: ("forward_kl", "js")
