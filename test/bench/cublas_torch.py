"""What cuBLAS reaches through PyTorch for square products of the sizes given: GF/s of f32 (with and without TF32), f16 and bf16.
One JSON line; {"missing": why} where there is no PyTorch or no CUDA."""
import json
import sys
import time


def main() -> dict:
    try:
        import torch
    except ImportError as cause:
        return {"missing": f"no PyTorch: {cause}"}
    if not torch.cuda.is_available():
        return {"missing": "PyTorch has no CUDA here"}
    results = {"torch": torch.__version__, "device": torch.cuda.get_device_name(0), "gflops": {}}
    for name, dtype, tf32 in [
        ("f32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("f16", torch.float16, False),
        ("bf16", torch.bfloat16, False),
    ]:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        results["gflops"][name] = {}
        for size in map(int, sys.argv[1:]):
            x = torch.randn(size, size, device="cuda", dtype=dtype)
            w = torch.randn(size, size, device="cuda", dtype=dtype)
            best = float("inf")
            repeats = max(3, int(2e12 / (2 * size**3)))
            for _ in range(6):  # the first warms up
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(repeats):
                    torch.nn.functional.linear(x, w)
                torch.cuda.synchronize()
                best = min(best, (time.perf_counter() - start) / repeats)
            results["gflops"][name][str(size)] = round(2 * size**3 / best / 1e9, 1)
    return results


print(json.dumps(main()))
