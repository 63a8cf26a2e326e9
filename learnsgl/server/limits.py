"""How much one HTTP request may ask for, as the operator has set it. The routes check every request against it.

`launch.py` makes it from the options `--max-body-mib` and `--max-choices`. What the whole server takes at once is the
hub's affair, in `requests.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from learnsgl.config import ServerConfig
from learnsgl.errors import RequestError
from learnsgl.server.new_request import NewRequest

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_body_bytes: longest body.
        max_choices: most answers to a prompt, its `n`.
    """

    max_body_bytes: int
    max_choices: int

    @classmethod
    def of(cls, config: ServerConfig) -> Limits:
        """The limits that the options set."""
        return cls(int(config.max_body_mib * MIB), config.max_choices)

    async def read_body(self, request: Request) -> bytes:
        """The body of a request. One that says beforehand that it is too long isn't read.

        Raises:
            RequestError: it is longer than `max_body_bytes`.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.max_body_bytes:
            raise self._too_long()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.max_body_bytes:
                raise self._too_long()
        return bytes(body)

    def _too_long(self) -> RequestError:
        return RequestError(
            f"the body is longer than {self.max_body_bytes} bytes, which is this server's limit (--max-body-mib); "
            "send less",
            status=413,
            code="request_too_large",
        )

    def check(self, request: NewRequest) -> None:
        """No prompt may ask for more answers than the server allows.

        Raises:
            RequestError: one does.
        """
        n = max(prompt.sampling.n for prompt in request.prompts)
        if n > self.max_choices:
            param = f"{request.sampling_path}n"
            raise RequestError(
                f"{param} is {n}; this server gives at most {self.max_choices} answers to a prompt (--max-choices)",
                param=param,
            )
