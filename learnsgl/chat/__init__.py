"""`learnsgl chat`: a conversation with a server, in the terminal. `cli.py` calls `add_chat_command`.

It is a client like any other: it speaks the OpenAI API over HTTP, and imports nothing of the server.
"""

from learnsgl.chat.command import add_chat_command

__all__ = ["add_chat_command"]
