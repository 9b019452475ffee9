"""Writes golden tensors of small, odd-sized GPT-2 and Llama models to lm/: weights, a batch, its loss, every gradient and the weights
after one AdamW step. Computed in float64 from float32 weights; gradients are checked against finite differences here.

Run: python3 test/golden/make_lm_golden.py   (any PyTorch >= 1.12 on the CPU; made with 1.13)
"""
import copy
import json
import math
import os
import struct
import torch
from lm_models import IGNORED, build

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm")
ADAMW = dict(name="adamw", lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weightDecay=0.1)
DTYPES = {torch.float32: "F32", torch.int32: "I32"}
MAX_LOGITS = 4096

# Name: batch, tokens, labels that are ignored, the model.
CASES = {
    "gpt2-four-layers": (5, 7, 9, dict(family="gpt2", vocab_size=53, n_positions=16, n_embd=30, n_layer=4, n_head=5)),
    "gpt2-four-layers-untied-no-bias": (2, 33, 5, dict(
        family="gpt2", vocab_size=61, n_positions=40, n_embd=18, n_layer=4, n_head=3, bias=False, tie_word_embeddings=False)),
    "gpt2-one-token": (5, 1, 1, dict(family="gpt2", vocab_size=53, n_positions=1, n_embd=20, n_layer=2, n_head=4)),
    "gpt2-untied": (1, 65, 3, dict(
        family="gpt2", vocab_size=257, n_positions=65, n_embd=24, n_layer=2, n_head=3, n_inner=50, layer_norm_epsilon=1e-3,
        tie_word_embeddings=False)),
    "gpt2-no-bias": (3, 33, 0, dict(family="gpt2", vocab_size=97, n_positions=33, n_embd=36, n_layer=2, n_head=6, n_inner=35, bias=False)),
    "gpt2-one-head": (1, 1, 0, dict(family="gpt2", vocab_size=11, n_positions=3, n_embd=7, n_layer=1, n_head=1)),
    "gpt2-wide-head": (5, 65, 70, dict(family="gpt2", vocab_size=53, n_positions=70, n_embd=68, n_layer=1, n_head=1, n_inner=70)),
    "llama-four-layers": (5, 7, 9, dict(
        family="llama", vocab_size=53, hidden_size=36, intermediate_size=50, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5)),
    "llama-four-layers-tied-rope-llama3": (2, 33, 4, dict(
        family="llama", vocab_size=67, hidden_size=32, intermediate_size=45, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, rope_theta=100.0, tie_word_embeddings=True,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    "llama-one-group": (1, 33, 0, dict(
        family="llama", vocab_size=257, hidden_size=24, intermediate_size=33, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=1, tie_word_embeddings=True)),
    "llama-biases": (1, 65, 7, dict(
        family="llama", vocab_size=53, hidden_size=30, intermediate_size=41, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5, rms_norm_eps=1e-3, rope_theta=500.0, attention_bias=True, mlp_bias=True)),
    "llama-one-token": (1, 1, 0, dict(
        family="llama", vocab_size=11, hidden_size=10, intermediate_size=7, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1)),
    "llama-rope-linear": (5, 33, 11, dict(
        family="llama", vocab_size=53, hidden_size=21, intermediate_size=29, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=3, head_dim=10, attention_bias=True, rope_scaling=dict(rope_type="linear", factor=2.5))),
    "llama-wide-head": (2, 9, 2, dict(
        family="llama", vocab_size=53, hidden_size=34, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=66)),
}
# Every key a reader may look up, so that no default has to be known; a case's own values win.
DEFAULTS = {
    "gpt2": dict(activation_function="gelu_new", layer_norm_epsilon=1e-5, tie_word_embeddings=True, bias=True),
    "llama": dict(hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-6, rope_theta=10000.0, attention_bias=False,
                  mlp_bias=False, tie_word_embeddings=False),
}


def save(path, tensors, metadata):
    header, offset, chunks = {"__metadata__": metadata}, 0, []
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        chunks.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))
    return 8 + len(text) + offset


def randomise(model):
    """Weights at which no term is small: nothing wrong hides behind zero biases, norms of one, or a flat softmax."""
    for name, p in model.named_parameters():
        with torch.no_grad():
            p.normal_()
            if p.dim() == 1 and name.endswith("weight"):
                p.mul_(0.3).add_(1)
            elif p.dim() == 1:
                p.mul_(0.3)
            elif "wte" in name or "wpe" in name or "embed" in name:
                p.mul_(1.5 / math.sqrt(p.shape[1]))
            else:
                inputs = p.shape[0] if ".c_" in name else p.shape[1]
                p.mul_(1.2 / math.sqrt(inputs))


def batch_of(vocab, batch, tokens, ignored):
    ids = torch.randint(0, vocab, (batch, tokens), dtype=torch.int32)
    labels = torch.randint(0, vocab, (batch, tokens), dtype=torch.int32)
    labels.view(-1)[torch.randperm(batch * tokens)[:ignored]] = IGNORED
    return ids, labels


def finite_difference_error(model, ids, labels, step=1e-5, entries=3):
    """The largest relative error, over a few entries of every parameter, its largest gradient among them."""
    worst = 0.0
    for p in model.parameters():
        flat, gradient = p.data.view(-1), p.grad.view(-1)
        picks = {gradient.abs().argmax().item(), *torch.randint(0, flat.numel(), (entries,)).tolist()}
        scale = gradient.abs().max().item() + 1e-6
        for i in picks:
            kept, losses = flat[i].item(), []
            for sign in (1, -1):
                flat[i] = kept + sign * step
                with torch.no_grad():
                    losses.append(model.loss(ids, labels).item())
            flat[i] = kept
            worst = max(worst, abs((losses[0] - losses[1]) / (2 * step) - gradient[i].item()) / scale)
    return worst


def adamw_step(model):
    o = ADAMW
    torch.optim.AdamW(model.parameters(), lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weightDecay"]).step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def float32_errors(single, ids, labels, model):
    """What PyTorch itself loses in float32: the loss, and the gradient relative to the largest one of its parameter (1e-6 at least)."""
    loss = single.loss(ids, labels)
    loss.backward()
    pairs = zip(single.parameters(), model.parameters())
    return loss.item(), max((a.grad - b.grad).abs().max().item() / max(b.grad.abs().max().item(), 1e-6) for a, b in pairs)


def main():
    os.makedirs(HERE, exist_ok=True)
    total = 0
    for c, (name, (batch, tokens, ignored, given)) in enumerate(CASES.items()):
        torch.manual_seed(2000 + c)
        spec = {"family": given["family"], **{k: v for k, v in {**DEFAULTS[given["family"]], **given}.items() if k != "family"}}
        single = build(spec)
        randomise(single)
        model = copy.deepcopy(single).double()
        ids, labels = batch_of(spec["vocab_size"], batch, tokens, ignored)
        logits = model.logits(ids)
        loss = model.loss(ids, labels)
        loss.backward()
        error = finite_difference_error(model, ids, labels)
        assert error < 1e-5, f"{name}: a gradient is {error} away from its finite difference"
        start = {key: p.detach().clone() for key, p in single.named_parameters()}
        single_loss, single_error = float32_errors(single, ids, labels, model)
        gradients = {f"grad.{key}": p.grad.clone() for key, p in model.named_parameters()}
        stepped = {f"adamw.{key}": p for key, p in adamw_step(model).items()}
        out = {**start, "input_ids": ids, "labels": labels, "loss": loss.float()}
        if logits.numel() <= MAX_LOGITS:
            out["logits"] = logits.float()
        out.update({key: p.float() for key, p in {**gradients, **stepped}.items()})
        metadata = dict(spec=json.dumps(spec), optimizer=json.dumps(ADAMW), torch=torch.__version__)
        size = save(os.path.join(HERE, f"{name}.safetensors"), out, metadata)
        with open(os.path.join(HERE, f"{name}.json"), "w") as file:
            json.dump(spec, file, indent=2)
            file.write("\n")
        total += size
        count = sum(p.numel() for p in start.values())
        print(f"{name:36} B {batch} T {tokens:2} {count:6} parameters, {size:7} bytes, loss {loss.item():.6f}, finite differences "
              f"{error:.1e}, float32: loss {abs(single_loss - loss.item()):.1e} gradient {single_error:.1e}")
    print(f"{len(CASES)} cases, {total} bytes")


if __name__ == "__main__":
    main()
