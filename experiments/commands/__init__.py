"""The commands that are one file each: `python -m experiments.compare` is `compare.py` here (see
`experiments/__init__.py`). A larger one is a folder beside this one: `bench`, `figures`, `sweep`.

Nothing imports a command; what two of them share is in the folder of its topic."""
