"""`learnsgl generate`: prompts from the command line, a file or a pipe, answered in this process.

A room of its own beside `offline/`, since reading prompts and writing results is a command's work; all the rest is the
`LLM` of `llm.py`. `cli.py` calls `add_generate_command`.
"""

from learnsgl.generate.command import add_generate_command

__all__ = ["add_generate_command"]
