"""Writes golden tensors from PyTorch: small MLPs, gradients and weights of every step for test/model/golden.test.ts, and single
steps with PyTorch's own defaults for test/cli/step.test.ts (in step/).

Run: python3 test/golden/make_golden.py   (any PyTorch >= 1.12 on the CPU; made with 1.13)
"""
import json
import os
import struct
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 3
ROWS = 6

MODELS = {
    "relu": ([7, 5, 3], F.relu),
    "gelu": ([13, 17, 9, 5], F.gelu),
    "gelu_new": ([6, 11, 4], lambda x: F.gelu(x, approximate="tanh")),
}
OPTIMIZERS = {
    "sgd": (dict(name="sgd", lr=0.1, momentum=0, weightDecay=0),
            lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (dict(name="sgd", lr=0.05, momentum=0.9, weightDecay=0.01),
                 lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
    "adamw": (dict(name="adamw", lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8, weightDecay=0.05),
              lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)),
}


def save(path, tensors, metadata):
    header, offset, chunks = {"__metadata__": metadata}, 0, []
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous().numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        chunks.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def main():
    for m, (model, (sizes, activation)) in enumerate(MODELS.items()):
        for o, (label, (spec, make)) in enumerate(OPTIMIZERS.items()):
            torch.manual_seed(100 * m + o)
            layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
            named = {f"layers.{i}.{kind}": getattr(layer, kind) for i, layer in enumerate(layers) for kind in ("weight", "bias")}
            optimizer = make(list(named.values()))
            out = {f"start.{name}": p.clone() for name, p in named.items()}
            for step in range(STEPS):
                x = torch.randn(ROWS, sizes[0])
                y = torch.randint(0, sizes[-1], (ROWS,))
                y[step] = -100
                hidden = x
                for i, layer in enumerate(layers):
                    hidden = layer(hidden)
                    if i < len(layers) - 1:
                        hidden = activation(hidden)
                loss = F.cross_entropy(hidden, y, reduction="sum", ignore_index=-100) / ROWS
                optimizer.zero_grad()
                loss.backward()
                out[f"{step}.x"], out[f"{step}.y"] = x, y.to(torch.int32)
                out[f"{step}.logits"], out[f"{step}.loss"] = hidden, loss.reshape(1)
                for name, p in named.items():
                    out[f"{step}.gradient.{name}"] = p.grad.clone()
                optimizer.step()
                for name, p in named.items():
                    out[f"{step}.weight.{name}"] = p.clone()
            metadata = {
                "model": json.dumps(dict(family="mlp", sizes=sizes, activation=model)),
                "optimizer": json.dumps(spec),
                "steps": str(STEPS),
                "torch": torch.__version__,
            }
            save(os.path.join(HERE, f"mlp-{model}-{label}.safetensors"), out, metadata)


# Name: sizes, activation, ignored rows, the flags of `skein step`, the optimizer they stand for. What a flag leaves out is PyTorch's default.
SINGLE_STEPS = {
    "sgd": ([20, 16, 10], "relu", 0, ["--lr", "0.1"], lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": ([20, 16, 10], "gelu", 2, ["--lr", "0.1", "--momentum", "0.9"],
                 lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "decay": ([20, 16, 10], "relu", 1, ["--lr", "0.1", "--weight-decay", "0.1"],
              lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1)),
    "adamw": ([20, 16, 10], "gelu_new", 0, ["--optimizer", "adamw"], lambda p: torch.optim.AdamW(p)),
    "adamw-all": ([784, 12, 10], "relu", 1,
                  ["--optimizer", "adamw", "--lr", "0.02", "--beta1", "0.8", "--beta2", "0.95", "--eps", "1e-6",
                   "--weight-decay", "0.3"],
                  lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)),
    "deep": ([12, 11, 9, 8, 6], "gelu", 1, ["--lr", "0.05", "--momentum", "0.5", "--weight-decay", "0.01"],
             lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=0.01)),
}


def single_steps():
    """The loss is PyTorch's default: the mean over the rows that are not ignored. Labels are int64, as PyTorch has them."""
    os.makedirs(os.path.join(HERE, "step"), exist_ok=True)
    for s, (name, (sizes, model, ignored, flags, make)) in enumerate(SINGLE_STEPS.items()):
        torch.manual_seed(1000 + s)
        activation = MODELS[model][1]
        layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        named = {f"layers.{i}.{kind}": getattr(layer, kind) for i, layer in enumerate(layers) for kind in ("weight", "bias")}
        optimizer = make(list(named.values()))
        out = {f"start.{key}": p.clone() for key, p in named.items()}
        x = torch.randn(8, sizes[0])
        y = torch.randint(0, sizes[-1], (8,))
        y[:ignored] = -100
        hidden = x
        for i, layer in enumerate(layers):
            hidden = layer(hidden)
            if i < len(layers) - 1:
                hidden = activation(hidden)
        loss = F.cross_entropy(hidden, y)
        loss.backward()
        out["x"], out["y"], out["loss"] = x, y, loss
        for key, p in named.items():
            out[f"grad.{key}"] = p.grad.clone()
        optimizer.step()
        for key, p in named.items():
            out[key] = p.clone()
        metadata = {
            "model": json.dumps(dict(family="mlp", sizes=sizes, activation=model)),
            "flags": json.dumps(flags),
            "torch": torch.__version__,
        }
        save(os.path.join(HERE, "step", f"{name}.safetensors"), out, metadata)


main()
single_steps()
