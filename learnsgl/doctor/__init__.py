"""`learnsgl doctor`: what this machine and this Python environment lack for the server, and how to mend it.

`cli.py` adds the command from `commands.py`. Nothing here imports more than the standard library before a check
runs: the doctor must also speak where the packages that it looks at can't be loaded.
"""
