"""`learnsgl bench grammar` measures what it says, with answers that its schemas allow."""

from __future__ import annotations

import json

import jsonschema
import pytest

from learnsgl import cli
from learnsgl.bench import grammar


def test_it_prints_a_row_for_every_schema(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError

    monkeypatch.setitem(grammar.LIBRARIES, "xgrammar", missing)
    few = {name: case for name, case in grammar.CASES.items() if "fields" not in name}
    monkeypatch.setattr(grammar, "CASES", few)
    assert cli.main(["bench", "grammar", "--model", "tiny-random", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "xgrammar    isn't installed" in printed
    for name in few:
        assert f"\nllguidance  {name} " in printed


def test_the_answers_fit_their_schemas() -> None:
    for schema, value in grammar.CASES.values():
        jsonschema.validate(json.loads(json.dumps(value)), schema)


def test_a_token_that_is_not_allowed_is_told() -> None:
    class Stubborn:
        def mask(self) -> None:
            """Nothing."""

        def take(self, token: int) -> bool:
            return token != 9

    with pytest.raises(ValueError, match="token 9 at place 1 isn't allowed"):
        grammar.measure(lambda schema: Stubborn, "{}", [8, 9], 1)
