"""The PyTorch half of the transformer benchmark: GPT-2 models of random weights on the CPU, forward and one training step.
Prints one JSON line; the models are those of test/golden/lm_models.py, in float32, without dropout.

Run: python3 test/bench/transformer_torch.py [--threads N] [--only NAME] [--repeats N]
Debian's python3-torch computes matrix products with whatever libblas.so.3 is found; the reference BLAS is 20 times slower than
OpenBLAS. The line names the library; put another first with LD_LIBRARY_PATH=FOLDER (Debian: libopenblas0-openmp). More threads than
idle cores cost far more than they bring; OMP_WAIT_POLICY=passive lessens it. OPENBLAS_CORETYPE=Haswell in the environment forgoes AVX-512.
"""
import argparse
import json
import os
import re
import statistics
import sys
import time
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from lm_models import build  # noqa: E402

SECONDS_PER_MEASUREMENT = 8
GPT2 = dict(family="gpt2", vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
NANO = dict(family="gpt2", vocab_size=65, n_positions=256, n_embd=384, n_layer=6, n_head=6, bias=False)
CHAR = dict(family="gpt2", vocab_size=96, n_positions=64, n_embd=128, n_layer=4, n_head=4)
# Name: model, batch, tokens, what is run.
MEASUREMENTS = {
    "gpt2-124m-forward-1": (GPT2, 1, 1, "last"),
    "gpt2-124m-forward-128-last": (GPT2, 1, 128, "last"),
    "gpt2-124m-forward-128-all": (GPT2, 1, 128, "all"),
    "gpt2-124m-train-128": (GPT2, 1, 128, "train"),
    "nanogpt-char-forward-4x256": (NANO, 4, 256, "all"),
    "nanogpt-char-train-4x256": (NANO, 4, 256, "train"),
    "char-gpt-forward-12x64": (CHAR, 12, 64, "all"),
    "char-gpt-train-12x64": (CHAR, 12, 64, "train"),
}
METHOD = ("wall clock of one call after one warm-up, best and median of up to --repeats calls within "
          f"{SECONDS_PER_MEASUREMENT} s (a warm-up of more than half of that is itself the figure); last: logits of the last "
          "position, all: of every position, train: mean loss over every position, backward, AdamW over all parameters")


def runner(model, spec, batch, tokens, kind):
    ids = torch.randint(0, spec["vocab_size"], (batch, tokens))
    labels = torch.randint(0, spec["vocab_size"], (batch, tokens))
    if kind == "train":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

        def step():
            optimizer.zero_grad(set_to_none=False)  # into the same buffers: allocating them anew is slower on the CPU
            model.loss(ids, labels).backward()
            optimizer.step()
        return step

    def forward():
        with torch.inference_mode():
            hidden = model.hidden(ids)  # (B, T, C)
            model.head(hidden[:, -1] if kind == "last" else hidden)
    return forward


def measure(run, repeats):
    begin = time.perf_counter()
    run()
    warm_up = time.perf_counter() - begin
    if warm_up > SECONDS_PER_MEASUREMENT / 2:
        return [1000 * warm_up]
    times, begin = [], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begin < SECONDS_PER_MEASUREMENT):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times


def blas_library():
    """The file that torch's matrix products come from, and whether it is the slow reference implementation."""
    try:
        with open("/proc/self/maps") as maps:
            found = sorted(set(re.findall(r"/\S*(?:openblas|mkl_core|libblis|libblas)\S*", maps.read())))
    except OSError:
        return "unknown", False
    fast = [path for path in found if re.search(r"openblas|mkl|blis|atlas", path)]
    return (fast or found or ["inside torch"])[-1], bool(found) and not fast


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", help="a measurement, or the start of its name")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    chosen = [name for name in MEASUREMENTS if name.startswith(args.only or "")]
    if not chosen:
        parser.error(f"no measurement starts with {args.only}; there are {', '.join(MEASUREMENTS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    library, slow = blas_library()
    if slow:
        print(f"warning: {library} is the reference BLAS, about 20 times slower than OpenBLAS", file=sys.stderr)
    torch.manual_seed(0)
    results, model, built = [], None, None
    for name in chosen:
        spec, batch, tokens, kind = MEASUREMENTS[name]
        if spec is not built:
            model, built = None, spec  # the last model is given back before the next is made
            model = build(spec)
        times = measure(runner(model, spec, batch, tokens, kind), args.repeats)
        best = min(times)
        results.append(dict(name=name, batch=batch, tokens=tokens, bestMs=round(best, 2), medianMs=round(statistics.median(times), 2),
                            tokensPerSecond=round(1000 * batch * tokens / best, 1), repeats=len(times)))
    print(json.dumps(dict(bench="transformer-torch", method=METHOD, torch=torch.__version__, threads=torch.get_num_threads(),
                          blas=library, results=results)))


if __name__ == "__main__":
    main()
