"""The program that the tests start: `learnsgl serve` with the echo executor in the engine's place."""

from __future__ import annotations

import argparse
import sys

from learnsgl.errors import LearnsglError
from learnsgl.options import add_options, config_from_args


def main() -> int:
    from learnsgl.server.launch import launch_server

    parser = argparse.ArgumentParser()
    add_options(parser)
    try:
        launch_server(
            config_from_args(parser.parse_args()), executor_factory="tests.server.echo_executor:create_echo_executor"
        )
    except LearnsglError as error:
        print(f"learnsgl: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
