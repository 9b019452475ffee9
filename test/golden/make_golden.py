"""Writes golden tensors from PyTorch: small MLPs and convolutional networks, gradients and weights of every step for test/model/golden.test.ts, and single
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
ACTIVATIONS = {name: activation for name, (_, activation) in MODELS.items()}
# A narrow LeNet; odd sizes with strides, padding and means; windows that overlap and leave pixels over, pooled twice.
CNNS = {
    "lenet": dict(family="cnn", input=[1, 16, 16], activation="relu", layers=[
        dict(kind="conv", channels=3, kernel=5, padding=2), dict(kind="pool", size=2),
        dict(kind="conv", channels=5, kernel=5), dict(kind="pool", size=2),
        dict(kind="linear", features=16), dict(kind="linear", features=12), dict(kind="linear", features=10)]),
    "odd": dict(family="cnn", input=[3, 11, 8], activation="gelu", layers=[
        dict(kind="conv", channels=5, kernel=3, stride=2, padding=1), dict(kind="pool", pool="average", size=3, stride=1),
        dict(kind="conv", channels=7, kernel=2), dict(kind="linear", features=6), dict(kind="linear", features=4)]),
    "overlap": dict(family="cnn", input=[2, 12, 9], activation="gelu_new", layers=[
        dict(kind="conv", channels=4, kernel=3, padding=1), dict(kind="pool", size=3, stride=2),
        dict(kind="conv", channels=17, kernel=2, stride=1, padding=1), dict(kind="pool", size=2, stride=1),
        dict(kind="pool", pool="average", size=2, stride=3), dict(kind="linear", features=3)]),
}
OPTIMIZERS = {
    "sgd": (dict(name="sgd", lr=0.1, momentum=0, weightDecay=0),
            lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (dict(name="sgd", lr=0.05, momentum=0.9, weightDecay=0.01),
                 lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
    "adamw": (dict(name="adamw", lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8, weightDecay=0.05),
              lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)),
}


def cnn(spec):
    """The layers that have weights, and what they all make of x (B, features)."""
    activation, (channels, height, width) = ACTIVATIONS[spec["activation"]], spec["input"]
    layers, steps, features = [], [], channels * height * width
    for i, layer in enumerate(spec["layers"]):
        if layer["kind"] == "linear":
            layers.append(torch.nn.Linear(features, layer["features"]))
            steps += [lambda x: x.flatten(1), layers[-1]] + ([activation] if i < len(spec["layers"]) - 1 else [])
            features = layer["features"]
            continue
        if layer["kind"] == "conv":
            layers.append(torch.nn.Conv2d(channels, layer["channels"], layer["kernel"], layer.get("stride", 1), layer.get("padding", 0)))
            steps += [layers[-1], activation]
            channels = layer["channels"]
        else:
            make = torch.nn.AvgPool2d if layer.get("pool") == "average" else torch.nn.MaxPool2d
            steps.append(make(layer["size"], layer.get("stride", layer["size"])))
        with torch.no_grad():
            shape = torch.nn.Sequential(*[s for s in steps if isinstance(s, torch.nn.Module)])(torch.zeros(1, *spec["input"])).shape
        features = shape[1] * shape[2] * shape[3]

    def run(x):
        hidden = x.reshape(-1, *spec["input"])
        for step in steps:
            hidden = step(hidden)
        return hidden

    return layers, run


def mlp(sizes, activation):
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]

    def run(x):
        hidden = x
        for i, layer in enumerate(layers):
            hidden = layer(hidden)
            if i < len(layers) - 1:
                hidden = activation(hidden)
        return hidden

    return layers, run


def parameters(layers):
    return {f"layers.{i}.{kind}": getattr(layer, kind) for i, layer in enumerate(layers) for kind in ("weight", "bias")}


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


def train(name, model, label, layers, run, features, classes):
    spec, make = OPTIMIZERS[label]
    named = parameters(layers)
    optimizer = make(list(named.values()))
    out = {f"start.{name}": p.clone() for name, p in named.items()}
    for step in range(STEPS):
        x = torch.randn(ROWS, features)
        y = torch.randint(0, classes, (ROWS,))
        y[step] = -100
        logits = run(x)
        loss = F.cross_entropy(logits, y, reduction="sum", ignore_index=-100) / ROWS
        optimizer.zero_grad()
        loss.backward()
        out[f"{step}.x"], out[f"{step}.y"] = x, y.to(torch.int32)
        out[f"{step}.logits"], out[f"{step}.loss"] = logits, loss.reshape(1)
        for key, p in named.items():
            out[f"{step}.gradient.{key}"] = p.grad.clone()
        optimizer.step()
        for key, p in named.items():
            out[f"{step}.weight.{key}"] = p.clone()
    metadata = {
        "model": json.dumps(model),
        "optimizer": json.dumps(spec),
        "steps": str(STEPS),
        "torch": torch.__version__,
    }
    save(os.path.join(HERE, f"{name}-{label}.safetensors"), out, metadata)


def main():
    for m, (model, (sizes, activation)) in enumerate(MODELS.items()):
        for o, label in enumerate(OPTIMIZERS):
            torch.manual_seed(100 * m + o)
            spec = dict(family="mlp", sizes=sizes, activation=model)
            train(f"mlp-{model}", spec, label, *mlp(sizes, activation), sizes[0], sizes[-1])
    for m, (name, spec) in enumerate(CNNS.items()):
        for o, label in enumerate(("momentum", "adamw")):
            torch.manual_seed(2000 + 100 * m + o)
            channels, height, width = spec["input"]
            train(f"cnn-{name}", spec, label, *cnn(spec), channels * height * width, spec["layers"][-1]["features"])


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


def single_step(name, spec, flags, make, layers, run, x, y):
    """The loss is PyTorch's default: the mean over the rows that are not ignored. Labels are int64, as PyTorch has them."""
    named = parameters(layers)
    optimizer = make(list(named.values()))
    out = {f"start.{key}": p.clone() for key, p in named.items()}
    loss = F.cross_entropy(run(x), y)
    loss.backward()
    out["x"], out["y"], out["loss"] = x, y, loss
    for key, p in named.items():
        out[f"grad.{key}"] = p.grad.clone()
    optimizer.step()
    for key, p in named.items():
        out[key] = p.clone()
    metadata = {"model": json.dumps(spec), "flags": json.dumps(flags), "torch": torch.__version__}
    save(os.path.join(HERE, "step", f"{name}.safetensors"), out, metadata)


def single_steps():
    os.makedirs(os.path.join(HERE, "step"), exist_ok=True)
    for s, (name, (sizes, model, ignored, flags, make)) in enumerate(SINGLE_STEPS.items()):
        torch.manual_seed(1000 + s)
        layers, run = mlp(sizes, ACTIVATIONS[model])
        x = torch.randn(8, sizes[0])
        y = torch.randint(0, sizes[-1], (8,))
        y[:ignored] = -100
        single_step(name, dict(family="mlp", sizes=sizes, activation=model), flags, make, layers, run, x, y)
    torch.manual_seed(3000)
    layers, run = cnn(CNNS["lenet"])
    x, y = torch.randn(8, 256), torch.randint(0, 10, (8,))
    single_step("cnn", CNNS["lenet"], ["--lr", "0.1", "--momentum", "0.9"],
                lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), layers, run, x, y)


main()
single_steps()
