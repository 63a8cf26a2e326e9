"""`learnsgl ps`: the servers of this user that run on this machine, and each of their processes.

`cli.py` adds the command from `commands.py`. A server's run file says who is who, the system what each process takes.
"""
