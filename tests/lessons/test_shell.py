"""Commands in a notebook: shown, found, cut short, and their exit codes told."""

import shlex
import sys

from learnsgl.lessons.shell import shell

PYTHON = shlex.quote(sys.executable)


def test_a_command_is_shown_with_its_output_and_errors(capfd):
    command = f"{PYTHON} -c \"import sys; print('out', flush=True); print('err', file=sys.stderr)\""
    shell(command)
    assert capfd.readouterr().out == f"$ {command}\nout\nerr\n"


def test_learnsgl_is_this_environments_own(capfd, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    shell("learnsgl --version")
    assert capfd.readouterr().out.startswith("$ learnsgl --version\nlearnsgl ")


def test_a_failure_is_told(capfd):
    shell(f"{PYTHON} -c 'raise SystemExit(5)'")
    assert capfd.readouterr().out.endswith("[exit code 5]\n")


def test_long_output_is_cut_and_the_rest_counted(capfd):
    shell(f"{PYTHON} -c 'for i in range(10): print(i)'", max_lines=2)
    assert capfd.readouterr().out.splitlines()[1:] == ["0", "1", "... and 8 more lines"]


def test_an_unknown_program_is_told_and_the_lesson_goes_on(capfd):
    shell("no-such-program-here --help")
    assert capfd.readouterr().out.endswith("[no-such-program-here isn't installed on this machine]\n")
