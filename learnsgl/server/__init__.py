"""The server around the engine: starting and watching the processes, and the HTTP API."""
