"""The offline API's parts: what turns every job of the server in one process, without HTTP. `llm.py` is its door."""
