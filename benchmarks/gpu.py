"""Everything that only CUDA can tell, by one command: kernels, steps, packs, samples, a sweep.

| part | what | s, estimated | limit s |
|---|---|---|---|
| tests | the tests that are marked gpu; most of it is building kernels | 60 | 70 |
| layer | one layer: fp32 and bf16, with and without the fused kernels, in CUDA graphs | 50 | 55 |
| sd15 | SD 1.5 at 512 px: a step of all adapters, memory against plan, packs, graphs | 95 | 100 |
| sdxl | SDXL at 1024 px, likewise | 150 | 155 |
| sample | images a second: sampled, decoded, scored | 38 | 40 |
| sweep | one sweep on Toyland | 55 | 60 |

Goals are in gpu_parts/report.py. The bases are of full size with random weights, made on the
device (random_checkpoint.py). A part runs in a process of its own, is ended at its limit, and keeps
what it had measured. Results go to one JSON and, beside it, a Markdown file, both written after
every part; run again, the command goes on with what is missing. It needs torch with CUDA, diffusers
and this repository, no network; parts that need another package are skipped, and say so.

Run: python benchmarks/gpu.py [--part layer --part sd15] [--device cpu --toy to rehearse]
"""

import argparse  # no tyro: this runs where torch and diffusers are, and may be nothing else
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # krona need not be installed

import torch  # noqa: E402
from gpu_parts.here import PARTS, measure  # noqa: E402
from gpu_parts.markdown import to_markdown  # noqa: E402
from gpu_parts.report import SETTLED, Report  # noqa: E402
from gpu_parts.run import run_apart  # noqa: E402
from gpu_parts.setup import Setup  # noqa: E402
from record import RESULTS, hardware  # noqa: E402

from krona.storage.cache import default_cache_dir  # noqa: E402

_TOY_LIMIT_S = 600.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command was told."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        help="run this one, also if it was run before; may be given several times",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny models, to rehearse on a CPU")
    parser.add_argument("--results", type=Path, help="the JSON; by device and date if not given")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=default_cache_dir() / "random-checkpoints",
        help="where random checkpoints lie, 11 GB; those that are there serve again",
    )
    parser.add_argument("--limit-s", type=float, help="of each part, instead of its own")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def result_path(told: argparse.Namespace) -> Path:
    """The file of this device, this size and this day, unless another was given."""
    if told.results:
        return Path(told.results)
    slug = re.sub(r"[^a-z0-9]+", "-", hardware(told.device).lower()).strip("-")
    size = "-toy" if told.toy else ""
    return RESULTS / f"gpu-{slug}{size}-{datetime.now(UTC):%Y-%m-%d}.json"


def missing(report: Report) -> list[str]:
    """The parts that were not run to their end, nor to their limit."""
    return [name for name in PARTS if report.parts.get(name, {}).get("status") not in SETTLED]


def run_all(told: argparse.Namespace) -> Path:
    """Run the parts that were asked for, or those that are missing; the Markdown's path."""
    path = result_path(told)
    report = Report(path, told.device)
    shown = path.with_suffix(".md")
    for name in told.part or missing(report):
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / "gpu.py"), "--here", name]
        command += ["--device", told.device, *(["--toy"] if told.toy else [])]
        command += ["--results", str(path), "--checkpoints", str(told.checkpoints)]
        limit_s = told.limit_s or (_TOY_LIMIT_S if told.toy else PARTS[name].limit_s)
        report = run_apart(name, command, report, limit_s=limit_s)
        shown.write_text(to_markdown(report, PARTS, is_toy=told.toy), encoding="utf-8")
        print(f"== {name}: {report.parts[name]['status']}", flush=True)
    return shown


def main() -> None:
    told = parse()
    if told.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here; rehearse with --device cpu --toy")
    told.checkpoints.mkdir(parents=True, exist_ok=True)
    if told.toy:
        torch.set_num_threads(1)  # more of them cost tiny models time
    if told.here:
        setup = Setup(device=told.device, is_toy=told.toy, checkpoints=told.checkpoints)
        measure(told.here, setup, Report(told.results, told.device))
    else:
        print(f"written to {run_all(told)}")


if __name__ == "__main__":
    main()
