"""How fast the work is beside other codes and beside what the machine can do: `python -m
experiments.bench`.

machine.py: what the machine gives; works.py and
small_works.py: our side of each; peers/: the others', run by Pythons of their own; measure.py: the
two in turn; page.py and chart.py: what is written; profile.py: where a method's time goes."""
