"""The rules that hold in every room of the house, one small test each. A failure says where, and what to do instead.

They read the source as a syntax tree, so a word in a comment or a docstring is no offence.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "learnsgl"

TORCH_FREE = (
    "core", "errors", "config", "option_field", "grammar_work", "terminal", "cli", "message", "trace", "scheduler",
    "kvcache", "server", "tokenizer", "hub", "replay", "export", "simulate", "demo", "viz", "chat", "ps", "llm",
    "offline", "generate", "local_server", "lessons",
)  # fmt: skip
"""Only the engine's process loads torch."""
SERVER_SIDE = ("server", "scheduler", "engine", "tokenizer", "message", "kvcache", "models", "attention", "kernels")
READERS = ("replay", "export", "simulate", "viz", "lessons", "demo", "doctor", "local_server")
"""Rooms that read recordings, or look at the machine. The server must not know of them."""
ENVIRONMENT_READERS = ("cli.py", "config.py")
MAX_LINES = 400
LONG_BY_NATURE = {"learnsgl/trace/events.py": "a registry, one entry after the other"}


def files_of(*rooms: str) -> list[Path]:
    """The source files of rooms, a room being a folder or a single file of the package."""
    found = []
    for room in rooms:
        file, folder = PACKAGE / f"{room}.py", PACKAGE / room
        found += [file] if file.is_file() else sorted(folder.rglob("*.py"))
    return found


def all_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST | None = None) -> str:
    line = getattr(node, "lineno", None)
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


def offences(paths: list[Path], is_offence: Callable[[ast.AST], bool]) -> list[str]:
    return [place(path, node) for path in paths for node in ast.walk(tree_of(path)) if is_offence(node)]


def imported(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every module that a file imports, wherever in it; names imported from a module count as modules too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
                base = ".".join([*parts, *([base] if base else [])])
            yield base, node
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imports_of(paths: list[Path], *packages: str) -> list[str]:
    return [
        f"{place(path, node)} imports {module}"
        for path in paths
        for module, node in imported(path)
        if any(is_within(module, package) for package in packages)
    ]


def is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def nothing(found: list[str], advice: str) -> None:
    """Nothing was found, or the test fails with the advice and every place."""
    assert not found, "\n  ".join([advice, *found])


# ---------------------------------------------------------------- who imports whom


def test_torch_free_rooms_do_not_import_torch() -> None:
    found = imports_of(
        files_of(*TORCH_FREE), "torch", "triton", "learnsgl.engine", "learnsgl.models", "learnsgl.attention"
    )
    # `model info` describes a config.json; parsing one takes no torch
    plain = re.compile(r"learnsgl/hub/.* imports learnsgl\.models\.(config|architectures)\b")
    allowed = [line for line in found if plain.match(line)]
    nothing(sorted(set(found) - set(allowed)), "only the engine's process loads torch; pass plain data instead")


def test_torch_free_rooms_do_not_load_torch_in_a_fresh_process() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files_of(*TORCH_FREE)]
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {modules!r}:",
            "    importlib.import_module(name.removesuffix('.__init__'))",
            "    if 'torch' in sys.modules:",
            "        sys.exit(f'{name} loads torch, itself or through what it imports')",
        ]
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_server_does_not_load_what_reads_recordings() -> None:
    program = (
        "import sys, learnsgl.server.launch, learnsgl.scheduler.worker, learnsgl.tokenizer.worker\n"
        f"print([name for name in sys.modules if name.startswith({tuple(f'learnsgl.{room}' for room in READERS)!r}) "
        "or name == 'matplotlib'])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]", "the server and the figures share the trace, and nothing else"


def test_the_server_side_does_not_import_what_reads_recordings() -> None:
    found = imports_of(files_of(*SERVER_SIDE), *(f"learnsgl.{room}" for room in READERS))
    nothing(found, "they read traces, that is all they share with the server; move what both need to trace/")


def test_core_imports_nothing_of_ours() -> None:
    nothing(imports_of([PACKAGE / "core.py"], "learnsgl"), "core.py is the ground floor; move it up")


def test_nothing_is_pickled() -> None:
    found = imports_of(all_files(), "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
    nothing(found, "messages are msgspec structs, recordings are framed msgpack; use message/codec.py")


def test_no_pickle_on_a_zmq_socket() -> None:
    found = offences(
        all_files(), lambda node: isinstance(node, ast.Attribute) and node.attr in ("send_pyobj", "recv_pyobj")
    )
    nothing(found, "pyzmq pickles these; send bytes through message/channel.py")


# ---------------------------------------------------------------- no hidden state


def test_the_environment_is_read_in_two_files_only() -> None:
    paths = [path for path in all_files() if path.relative_to(PACKAGE).as_posix() not in ENVIRONMENT_READERS]

    def reads(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return (
                node.attr in ("environ", "environb", "getenv")
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
            )
        return (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any("env" in alias.name for alias in node.names)
        )

    nothing(offences(paths, reads), "make it an option in config.py, and pass it down")


def test_no_global_statements() -> None:
    found = offences(all_files(), lambda node: isinstance(node, ast.Global))
    nothing(found, "what a function needs is passed to it")


def test_nothing_is_patched_onto_objects() -> None:
    nothing(offences(all_files(), lambda node: is_call_of(node, "setattr")), "write the attribute where it is declared")


# ---------------------------------------------------------------- the same inputs give the same decisions


def test_nothing_hangs_on_the_address_of_an_object() -> None:
    found = offences(all_files(), lambda node: is_call_of(node, "id"))
    found += offences(
        all_files(),
        lambda node: (
            isinstance(node, ast.keyword)
            and node.arg == "key"
            and isinstance(node.value, ast.Name)
            and node.value.id == "id"
        ),
    )
    nothing(found, "addresses differ from run to run; give the object a number of its own")


def test_scheduling_does_not_iterate_over_sets() -> None:
    found = []
    for path in files_of("scheduler", "kvcache"):
        sets = set_names(tree_of(path))
        found += [place(path, node) for node in iterated(tree_of(path)) if is_set(node, sets)]
    nothing(found, "the order of a set isn't ours; use a dict, a list or sorted()")


def test_scheduling_reads_no_clock_of_its_own() -> None:
    def reads(node: ast.AST) -> bool:
        called = node.func if isinstance(node, ast.Call) else None
        return (
            isinstance(called, ast.Attribute)
            and isinstance(called.value, ast.Name)
            and called.value.id in ("time", "datetime")
        )

    nothing(
        offences(files_of("scheduler", "kvcache"), reads), "the clock is passed in, so that it can be a virtual one"
    )


def set_names(tree: ast.Module) -> set[str]:
    """Names and attributes that are bound to a set somewhere in a file."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and is_set(node.value, set()):
            names |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, (ast.AnnAssign, ast.arg)) and _is_set_type(node.annotation):
            names.add(node.arg if isinstance(node, ast.arg) else ast.unparse(node.target))
    return names


def _is_set_type(annotation: ast.expr | None) -> bool:
    return annotation is not None and re.match(r"(set|frozenset|AbstractSet)\b", ast.unparse(annotation)) is not None


def is_set(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)) or is_call_of(node, "set") or is_call_of(node, "frozenset"):
        return True
    return isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in names


def iterated(tree: ast.Module) -> Iterator[ast.AST]:
    """Expressions whose order of iteration matters."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.For, ast.comprehension)):
            yield node.iter
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("list", "tuple", "iter", "enumerate")
        ):
            yield from node.args[:1]


@pytest.mark.parametrize(
    "source", ["for x in {1, 2}: pass", "s = set(a)\nb = [x for x in s]", "def f(s: set[int]): return list(s)"]
)
def test_the_rule_about_sets_finds_them(source: str) -> None:
    tree = ast.parse(source)
    assert any(is_set(node, set_names(tree)) for node in iterated(tree))


# ---------------------------------------------------------------- form


def test_every_file_says_what_it_is_for() -> None:
    found = [place(path) for path in all_files() if not ast.get_docstring(tree_of(path))]
    nothing(found, "open the file with two or three sentences: what this room is for, and who calls it")


def test_no_file_is_too_long() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in all_files()}
    found = {name: length for name, length in lengths.items() if length > MAX_LINES and name not in LONG_BY_NATURE}
    nothing([f"{name}: {length}" for name, length in found.items()], f"more than {MAX_LINES} lines; split it in two")


def test_nothing_is_put_off() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    sources = [*all_files(), *sorted((ROOT / "tests").rglob("*.py"))]
    found = [place(path) for path in sources if words.search(path.read_text("utf-8"))]
    found += offences(all_files(), lambda node: isinstance(node, ast.Raise) and "NotImplemented" in ast.unparse(node))
    nothing(found, "do it now, or open an issue; the code says what is")


# ---------------------------------------------------------------- what may not be written down


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file under version control, by name; without git, those of the folders that are published."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    if not names:
        folders = ("learnsgl", "tests", "docs", "notebooks", "traces")
        names = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.*")]
    for name in names:
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data:
            yield name, data.decode("utf-8", errors="replace")


def lines_with(pattern: str) -> list[str]:
    wanted = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if wanted.search(line)
    ]


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    own = re.escape(f"{ROOT}/")
    found = lines_with(rf"{own}|(?<![\w.~$}}])/(?:work|root|Users|tmp)/\w|(?<![\w.~$}}])/home/(?!ann\b|you\b)\w")
    nothing(found, "use a path relative to the checkout, or tmp_path in a test")


def test_no_file_names_a_package_index() -> None:
    found = lines_with(r"(?i)py[p]i\.org|pythonhoste[d]\.org|download\.pytorc[h]\.org|anacond[a]\.org|npmj[s]\.")
    nothing(found, "pip's own settings say where packages come from")
