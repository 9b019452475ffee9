"""GPT-2 and Llama language models in plain PyTorch, computed and named as Hugging Face's GPT2LMHeadModel and LlamaForCausalLM.
The reference that the golden tensors, the example's reference run and the benchmark share; not part of the product.
"""
import math
import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100
ACTIVATIONS = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


def attend(q, k, v):
    """Causal attention: q, k, v (B, H, T, D) -> (B, T, H * D)."""
    batch, heads, tokens, size = q.shape
    scores = q @ k.transpose(-2, -1) / math.sqrt(size)  # (B, H, T, T)
    if tokens > 1:
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    out = F.softmax(scores, dim=-1) @ v  # (B, H, T, D)
    return out.transpose(1, 2).reshape(batch, tokens, heads * size)


class LanguageModel(nn.Module):
    """What both families share: `hidden` (B, T) -> (B, T, C) and `head` (…, C) -> (…, V) come from the family."""

    def logits(self, ids):
        return self.head(self.hidden(ids))

    def loss(self, ids, labels):
        """labels (B, T): the target at each position itself, unshifted; the mean over those that are not -100."""
        logits = self.logits(ids)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), ignore_index=IGNORED)


class Conv1D(nn.Module):
    """A linear layer with its weight stored (in, out), as GPT-2 was published."""

    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        out = rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return out.view(*x.shape[:-1], -1)


class LayerNorm(nn.Module):
    def __init__(self, size, eps, bias):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Gpt2Attention(nn.Module):
    def __init__(self, size, heads, bias):
        super().__init__()
        self.heads = heads
        self.c_attn = Conv1D(size, 3 * size, bias)
        self.c_proj = Conv1D(size, size, bias)

    def forward(self, x):
        parts = self.c_attn(x).chunk(3, dim=-1)  # 3 x (B, T, C)
        q, k, v = (p.view(*p.shape[:2], self.heads, -1).transpose(1, 2) for p in parts)  # (B, H, T, D)
        return self.c_proj(attend(q, k, v))


class Gpt2Mlp(nn.Module):
    def __init__(self, size, inner, activation, bias):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.c_fc = Conv1D(size, inner, bias)
        self.c_proj = Conv1D(inner, size, bias)

    def forward(self, x):
        return self.c_proj(self.activation(self.c_fc(x)))


class Gpt2Block(nn.Module):
    def __init__(self, spec):
        super().__init__()
        size, bias, eps = spec["n_embd"], spec.get("bias", True), spec.get("layer_norm_epsilon", 1e-5)
        inner = spec.get("n_inner") or 4 * size
        self.ln_1 = LayerNorm(size, eps, bias)
        self.attn = Gpt2Attention(size, spec["n_head"], bias)
        self.ln_2 = LayerNorm(size, eps, bias)
        self.mlp = Gpt2Mlp(size, inner, spec.get("activation_function", "gelu_new"), bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt2(LanguageModel):
    def __init__(self, spec):
        super().__init__()
        vocab, size = spec["vocab_size"], spec["n_embd"]
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab, size),
            wpe=nn.Embedding(spec["n_positions"], size),
            h=nn.ModuleList(Gpt2Block(spec) for _ in range(spec["n_layer"])),
            ln_f=LayerNorm(size, spec.get("layer_norm_epsilon", 1e-5), spec.get("bias", True)),
        ))
        self.lm_head = None if spec.get("tie_word_embeddings", True) else nn.Linear(size, vocab, bias=False)
        initialise(self, spec.get("initializer_range", 0.02))
        scale = 1 / math.sqrt(2 * spec["n_layer"])
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                p.data.mul_(scale)

    def hidden(self, ids):
        t = self.transformer
        x = t["wte"](ids) + t["wpe"](torch.arange(ids.shape[1], device=ids.device))  # (B, T, C)
        for block in t["h"]:
            x = block(x)
        return t["ln_f"](x)

    def head(self, x):
        return F.linear(x, self.transformer["wte"].weight if self.lm_head is None else self.lm_head.weight)


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rope_frequencies(spec):
    """Radians per position of each of the D / 2 pairs, float64; rope_scaling "linear" and "llama3" as in modeling_rope_utils.py."""
    size = head_size(spec)
    frequencies = spec.get("rope_theta", 10000.0) ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    scaling = spec.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies
    slowed = frequencies / scaling["factor"]
    if kind == "linear":
        return slowed
    if kind != "llama3":
        raise ValueError(f"rope_type {kind} is not default, linear or llama3")
    low, high, context = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["original_max_position_embeddings"]
    turns = context * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slowed, 1: as it was
    return (1 - share) * slowed + share * frequencies


def rotate(x, cos, sin):
    """x (B, H, T, D); cos, sin (T, D). Pairs are (i, i + D / 2)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def head_size(spec):
    return spec.get("head_dim") or spec["hidden_size"] // spec["num_attention_heads"]


class LlamaAttention(nn.Module):
    def __init__(self, spec):
        super().__init__()
        size, bias = spec["hidden_size"], spec.get("attention_bias", False)
        self.heads = spec["num_attention_heads"]
        self.groups = spec.get("num_key_value_heads") or self.heads
        self.size = head_size(spec)
        self.q_proj = nn.Linear(size, self.heads * self.size, bias=bias)
        self.k_proj = nn.Linear(size, self.groups * self.size, bias=bias)
        self.v_proj = nn.Linear(size, self.groups * self.size, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.size, size, bias=bias)

    def forward(self, x, cos, sin):
        q, k, v = (f(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        repeats = self.heads // self.groups  # query head h reads key head h // repeats
        k, v = rotate(k, cos, sin).repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        return self.o_proj(attend(rotate(q, cos, sin), k, v))


class LlamaMlp(nn.Module):
    def __init__(self, spec):
        super().__init__()
        size, inner, bias = spec["hidden_size"], spec["intermediate_size"], spec.get("mlp_bias", False)
        self.activation = ACTIVATIONS[spec.get("hidden_act", "silu")]
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x):
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, spec):
        super().__init__()
        size, eps = spec["hidden_size"], spec.get("rms_norm_eps", 1e-6)
        self.input_layernorm = RmsNorm(size, eps)
        self.self_attn = LlamaAttention(spec)
        self.post_attention_layernorm = RmsNorm(size, eps)
        self.mlp = LlamaMlp(spec)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(LanguageModel):
    def __init__(self, spec):
        super().__init__()
        vocab, size = spec["vocab_size"], spec["hidden_size"]
        self.frequencies = rope_frequencies(spec)
        self.model = nn.ModuleDict(dict(
            embed_tokens=nn.Embedding(vocab, size),
            layers=nn.ModuleList(LlamaBlock(spec) for _ in range(spec["num_hidden_layers"])),
            norm=RmsNorm(size, spec.get("rms_norm_eps", 1e-6)),
        ))
        self.lm_head = None if spec.get("tie_word_embeddings", False) else nn.Linear(size, vocab, bias=False)
        initialise(self, spec.get("initializer_range", 0.02))

    def hidden(self, ids):
        x = self.model["embed_tokens"](ids)  # (B, T, C)
        angles = torch.outer(torch.arange(ids.shape[1], dtype=torch.float64), self.frequencies).repeat(1, 2)  # (T, D)
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        for layer in self.model["layers"]:
            x = layer(x, cos, sin)
        return self.model["norm"](x)

    def head(self, x):
        return F.linear(x, self.model["embed_tokens"].weight if self.lm_head is None else self.lm_head.weight)


def initialise(model, deviation):
    """Matrices normal(0, deviation), biases 0, norms 1 and 0."""
    for p in model.parameters():
        if p.dim() >= 2:
            nn.init.normal_(p, 0.0, deviation)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


FAMILIES = {"gpt2": Gpt2, "llama": Llama}


def build(spec):
    return FAMILIES[spec["family"]](spec)
