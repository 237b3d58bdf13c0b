#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Thermocline against llama.cpp: the same shape, the same threads, the same class of precision, in turns in one run.

  llamacpp.py [--shape qwen3-30b-a3b|qwen3-next-80b] [--layers N] [--quant Q4_0,Q4_K] [--head bf16|int8|nf4] [--json]

fetches the source distribution of llama-cpp-python (its hash is pinned), builds llama-bench from the llama.cpp it
carries (7 minutes on 2 cores, kept under build-peers/), writes a random GGUF of the shape and a random checkpoint of
the same shape for us, and measures decoding (tg) and prompts (pp) of both by turns. Weights are zero-mean, so that
routing spreads over the experts; how many we touched is in the report.

On a machine without network, carry the project's tree and the one archive, nothing else (numpy, cmake, g++ and python
3.10 or newer must be there; `gguf` is taken from the archive, models are made on the spot: 5 GB each side):
  llama_cpp_python-VERSION.tar.gz        from `pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==VERSION`
  ./dev build                            (or meson setup build --buildtype=release && ninja -C build)
  python3 benchmarks/peers/llamacpp.py --head nf4 --archive llama_cpp_python-VERSION.tar.gz --work /some/large/disk --threads 16
Instead of --archive: --source DIR (an unpacked llama.cpp), --build DIR (with bin/llama-bench), --gguf DIR (GGUF files
made before). To try everything in a minute: --shape tiny-moe.

Owns: the peer's build, the turns, the ratios. shapes.py, beside it, owns the list of tensors, gguf_random.py what is in them.
"""
import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import figures  # noqa: E402
import quality  # noqa: E402
import shapes  # noqa: E402

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MEMBER = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
SKIPPED = ("models/", "docs/", "benches/", "media/", "tests/")  # of llama.cpp: not needed to build
CMAKE = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
         "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DBUILD_SHARED_LIBS=OFF")
HEADS = {"bf16": "BF16", "int8": "Q8_0", "nf4": None}  # None: as the other weights


def say(text):
    print(f"llamacpp: {text}", file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"llamacpp: error: {text}")


def run(command, what, **more):
    """Stdout of a command; its last lines are the error when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **more)
    if done.returncode:
        fail(f"{what}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def run_shown(command, what, log):
    """A long command: every few seconds the last line of what it says, all of it in a log."""
    with open(log, "ab") as out:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT)
        shown = 0.0
        while child.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                lines = log.read_text(errors="replace").strip().splitlines()
                say(f"{what}: {lines[-1][:100] if lines else '...'}")
    if child.returncode:
        fail(f"{what} failed, all of it is in {log}: {log.read_text(errors='replace')[-1500:]}")


# ---- llama.cpp ----


def fetch_archive(work):
    archive = work / f"llama_cpp_python-{VERSION}.tar.gz"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=work) as folder:
            pin = Path(folder) / "pin.txt"
            pin.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
            run_shown([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--require-hashes", "-r", pin,
                       "-d", folder], f"fetching {PACKAGE} {VERSION}", work / "fetch.log")
            os.replace(Path(folder) / archive.name, archive)
    return archive


def unpack(archive, work):
    source = work / "llama.cpp"
    if source.exists():
        return source
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        fail(f"{archive}: its hash is not the pinned one")
    with tempfile.TemporaryDirectory(dir=work) as folder, tarfile.open(archive) as tar:
        members = [m for m in tar if m.name.startswith(MEMBER) and not m.name[len(MEMBER):].startswith(SKIPPED)]
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, members, **options)
        os.replace(Path(folder) / MEMBER, source)
    return source


def build_peer(source, build):
    program = build / "bin/llama-bench"
    if program.exists():
        return program
    if not shutil.which("cmake"):
        fail("cmake is missing (apt-get install cmake g++)")
    build.mkdir(parents=True, exist_ok=True)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run_shown(["cmake", "-S", source, "-B", build, *generator, *CMAKE], "configuring llama.cpp", build / "build.log")
    run_shown(["cmake", "--build", build, "--target", "llama-bench", "-j", os.cpu_count()], "compiling llama.cpp", build / "build.log")
    return program


def parse_bench(text):
    """llama-bench's JSON: {"pp512": [tokens/s of each repetition], "tg128": [...]}."""
    try:
        rows = json.loads(text)
        result = {}
        for row in rows:
            name = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
            result[name] = [float(x) for x in row["samples_ts"]]
        if not result or not all(x and min(x) > 0 for x in result.values()):
            raise ValueError("no samples")
        return result
    except (ValueError, KeyError, TypeError) as error:
        fail(f"llama-bench: its answer is not understood ({error}): {text[:300]}")


def measure_peer(program, model, o):
    command = [program, "-m", model, "-t", o.threads, "-p", o.prompt, "-n", o.tokens, "-r", 1, "-ngl", 0, "-o", "json"]
    return parse_bench(run(command, "llama-bench"))


# ---- ours ----


def parse_ours(text, figure):
    """`thermocline bench --json`: the objects, one a line."""
    try:
        return figures.parse(text)
    except ValueError as error:
        fail(f"thermocline bench {figure}: its answer is not understood ({error!r}): {text[:300]}")


def ours(o, figure, model, *more):
    command = [o.thermocline, "bench", figure, model, "--json", "--device", "cpu", "--cache-dir", o.work / "cache", "--threads", o.threads,
               "--workers", o.workers, "--worker-threads", o.worker_threads, *o.options, *more]
    return parse_ours(run(command, f"thermocline bench {figure}"), figure)


def measure_ours(o, model):
    decode = ours(o, "decode", model, "--data-plane", "shm", "--tokens", o.tokens, "--prompt-tokens", 1, "--repetitions", 1)[0]
    prompt = ours(o, "prompt", model, "--prompt-tokens", o.prompt, "--repetitions", 1)[0]
    return {f"tg{o.tokens}": decode, f"pp{o.prompt}": prompt}


# ---- turns and ratios ----


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "samples": list(values)}


def ratios(own, peer):
    """Of the same turn: machines change from minute to minute."""
    return spread([a / b for a, b in zip(own, peer)])


def summarise(rounds, token_bytes_peer, o):
    """rounds: [(ours, peer)] as the measure functions give them. The roof of a turn is our measurement of it."""
    tg, pp = f"tg{o.tokens}", f"pp{o.prompt}"
    own = {k: [r[0][k]["tokens_per_s"]["median"] for r in rounds] for k in (tg, pp)}
    peer = {k: [statistics.median(r[1][k]) for r in rounds] for k in (tg, pp)}
    read = [r[0][tg]["read_gb_per_s"]["max"] * 1e9 for r in rounds]
    bytes_own = rounds[0][0][tg]["token_bytes"]
    return {
        tg: {"ours": spread(own[tg]), "llamacpp": spread(peer[tg]), "ratio": ratios(own[tg], peer[tg]),
             "read_gb_per_s": spread([x / 1e9 for x in read]),
             "ours_token_bytes": bytes_own, "llamacpp_token_bytes": token_bytes_peer,
             "ours_of_roofline": spread([v * bytes_own / x for v, x in zip(own[tg], read)]),
             "llamacpp_of_roofline": spread([v * token_bytes_peer / x for v, x in zip(peer[tg], read)]),
             "experts_touched": rounds[-1][0][tg]["experts_touched"], "experts_in_all": rounds[-1][0][tg]["experts_in_all"]},
        pp: {"ours": spread(own[pp]), "llamacpp": spread(peer[pp]), "ratio": ratios(own[pp], peer[pp]),
             "ours_int8_peak_fraction": rounds[-1][0][pp].get("int8_peak_fraction")},
    }


def line(name, s, unit=""):
    return f"  {name:34} {s['median']:9.3f}{unit} ({s['min']:.3f} to {s['max']:.3f} in {len(s['samples'])})"


def print_text(answer, o):
    print(f"{answer['shape']}, {answer['layers']} layers, {answer['quant']}, head {answer['head']}, {o.threads} threads, "
          f"{answer['cpu']}, {answer['precision']} precision, commit {answer['commit']}")
    for name, figure in answer["figures"].items():
        print(line(f"{name}: ours", figure["ours"], " tokens/s"))
        print(line(f"{name}: llama.cpp", figure["llamacpp"], " tokens/s"))
        print(line(f"{name}: ours / llama.cpp", figure["ratio"]))
        if "ours_of_roofline" in figure:
            print(line(f"{name}: ours of its roofline", figure["ours_of_roofline"]))
            print(line(f"{name}: llama.cpp of its roofline", figure["llamacpp_of_roofline"]))
            print(f"  {'bytes a token, ours and llama.cpp':34} {figure['ours_token_bytes'] / 1e6:.1f} and {figure['llamacpp_token_bytes'] / 1e6:.1f} MB; "
                  f"read bandwidth {figure['read_gb_per_s']['median']:.1f} GB/s")
            print(f"  {'distinct experts we touched':34} {figure['experts_touched']} of {figure['experts_in_all']}")


def compare(o, shape, quant, checkpoint, program):
    model = make_gguf(o, shape, quant)
    own_first, rounds = True, []
    for number in range(o.rounds):
        say(f"{shape.name} {quant}: turn {number + 1} of {o.rounds}")
        pair = {}
        for side in ("ours", "peer") if own_first else ("peer", "ours"):
            pair[side] = measure_ours(o, checkpoint) if side == "ours" else measure_peer(program, model, o)
        rounds.append((pair["ours"], pair["peer"]))
        own_first = not own_first
    first = rounds[0][0][f"tg{o.tokens}"]
    answer = {"bench": "llamacpp", "shape": shape.name, "layers": shape.layers, "quant": quant, "head": o.head,
              "threads": o.threads, "workers": o.workers, "worker_threads": o.worker_threads, "cpu": first["machine"]["cpu"],
              "cpus": os.cpu_count(), "kernel": platform.release(), "isa": first["isa"], "precision": first["precision"],
              "commit": first["commit"], "peer": f"{PACKAGE} {VERSION}",
              "figures": summarise(rounds, shapes.token_bytes(shape, quant, HEADS[o.head] or quant), o)}
    print(json.dumps(answer), flush=True) if o.json else print_text(answer, o)
    if not o.keep and not o.gguf:
        model.unlink()


# ---- models ----


def make_gguf(o, shape, quant):
    folder = o.gguf or o.work
    path = folder / f"{shape.name}-{shape.layers}-{quant}-{o.head}.gguf"
    if not path.exists():
        if o.gguf:
            fail(f"{path} is not there")
        say(f"writing {path.name}")
        import gguf_random
        gguf_random.write(path, shape, quant, HEADS[o.head] or quant, o.source)
    return path


def make_checkpoint(o, shape):
    path = o.work / f"{shape.name}-{shape.layers}"
    if not (path / "complete").exists():
        shutil.rmtree(path, ignore_errors=True)
        maker = o.thermocline.parent.parent / "benchmarks/thermocline-make-checkpoint"
        run_shown([maker, "--shape", shape.name, "--layers", shape.layers, path], f"writing the checkpoint {path.name}",
                  o.work / "checkpoint.log")
        (path / "complete").touch()
    run_shown([o.thermocline, "pack", path, "--cache-dir", o.work / "cache"], "packing", o.work / "checkpoint.log")
    return path


def remove_models(o, checkpoint):
    """The checkpoint, its packed store, and the memory that experts lie in after the programs have gone."""
    for store in (o.work / "cache").glob("*.tcx"):
        subprocess.run([o.thermocline, "arena", "drop", store], capture_output=True, check=False)
    shutil.rmtree(checkpoint)
    shutil.rmtree(o.work / "cache", ignore_errors=True)


def head_options(head, help_text):
    """How our side is asked for that head; bf16 is what the checkpoint has."""
    if head == "bf16":
        return []
    if head not in quality.choices_of(help_text, "--head"):
        fail(f"--head {head}: this thermocline makes no such head")
    return ["--head", head]


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", default="qwen3-30b-a3b", choices=list(shapes.SHAPES))
    p.add_argument("--layers", type=int, help="default: 12 of qwen3-30b-a3b, 8 of qwen3-next-80b")
    p.add_argument("--quant", default="Q4_0,Q4_K", help="of llama.cpp's weights")
    p.add_argument("--head", default="bf16", choices=list(HEADS), help="class of precision of the output head, both sides")
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--worker-threads", type=int, help="default: threads / workers")
    p.add_argument("--options", default="", help="further options of `thermocline bench`, in one word")
    p.add_argument("--thermocline", type=Path, default=ROOT / "build/cli/thermocline")
    p.add_argument("--work", type=Path, default=ROOT / "build-peers", help="where source, build and models are kept")
    p.add_argument("--archive", type=Path, help=f"llama_cpp_python-{VERSION}.tar.gz, instead of fetching it")
    p.add_argument("--source", type=Path, help="an unpacked llama.cpp")
    p.add_argument("--build", type=Path, help="its build folder")
    p.add_argument("--gguf", type=Path, help="a folder of GGUF files made before")
    p.add_argument("--prepare", action="store_true", help="fetch, build and make models, measure nothing")
    p.add_argument("--keep", action="store_true", help="keep models")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    o = p.parse_args(argv)
    o.worker_threads = o.worker_threads or max(1, o.threads // o.workers)
    o.work, o.options = o.work.resolve(), o.options.split()
    return o


def main(argv=None):
    o = parse(argv)
    o.work.mkdir(parents=True, exist_ok=True)
    shape = shapes.shape_of(o.shape, o.layers)
    o.options += head_options(o.head, run([o.thermocline, "bench", "--help"], "thermocline bench --help"))
    o.source = o.source or unpack(o.archive or fetch_archive(o.work), o.work)
    program = build_peer(o.source, o.build or o.work / "llama.cpp-build")
    checkpoint = make_checkpoint(o, shape)
    quants = o.quant.split(",")
    for quant in quants:
        if o.prepare:
            make_gguf(o, shape, quant)
        else:
            compare(o, shape, quant, checkpoint, program)
    if not o.keep and not o.prepare:
        remove_models(o, checkpoint)


if __name__ == "__main__":
    main()
