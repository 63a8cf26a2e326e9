"""How the recordings of this folder are made: the workloads, the server's options, and what each recording must show.

`../record.py` is the command; `catalogue.py` has the list. Nothing of learnsgl imports it.
"""
