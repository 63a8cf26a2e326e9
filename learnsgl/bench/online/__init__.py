"""`learnsgl bench online`: load for any OpenAI-compatible server, and what its clients see of it.

`bench/run.py` calls `measure.measure`. One file a question: when requests come (`arrivals.py`), what they ask
(`prompts.py`, `plan.py`, `replayed.py`), how one is sent (`client.py`) and many (`drive.py`), to whom (`target.py`),
and what came of it (`results.py`, `summary.py`, `tables.py`).
"""
