"""Writes the golden tensors of test/model/golden.test.ts: small MLPs trained by PyTorch, gradients and weights of every step.

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
        dtype = {torch.float32: "F32", torch.int32: "I32"}[tensor.dtype]
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


main()
