"""How fast ECG-JEPA is, beside what it could be: `python tests/benchmarks/bench_model.py [--quick]`.

Base model, 2 threads, everything in one process, cases alternating, medians. Beside each time stand those of
- dense: CroPA's mask built in every forward, full softmax, as the authors' code does;
- sdpa: PyTorch's scaled_dot_product_attention under a cached boolean mask, as a careful user would write;
- GEMM: the matrix products of the linear layers alone (of the attention alone: its own products), the limit.
"""

import argparse
import platform
import subprocess
import sys
from pathlib import Path

import torch
from measuring import Case, medians, peak_memory

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaForPreTraining, EcgJepaModel, cropa


def dense_cropa(qkv, valid, grid, scaling):
    """The baseline: nothing kept between calls, the full matrix of scores."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    pattern = cropa.cropa_pattern.__wrapped__(*grid, qkv.device)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~pattern, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2), None


ATTEND = {"dense": dense_cropa, "sdpa": cropa.sdpa_cropa, "cropa": cropa.factorised_cropa}
cropa.ALL_ATTENTION_FUNCTIONS["dense"] = dense_cropa


# ----------------------------------------------------------------------------------------------------------------------
# Attention alone


def attention_cases(batch: int, heads: int, grid: tuple[int, int], size: int, dtype, device, backward: bool):
    tokens = grid[0] * grid[1]
    qkv = torch.randn(batch, tokens, 3, heads, size, dtype=dtype, device=device, requires_grad=backward)

    def run(attend) -> Case:
        def case():
            with torch.set_grad_enabled(backward):
                out = attend(qkv, None, grid, size**-0.5)[0].flatten(2)
            if backward:
                out.backward(torch.ones_like(out))

        return case

    return {name: run(attend) for name, attend in ATTEND.items()} | {
        "GEMM": attention_products(batch, heads, grid, size, dtype, device, backward)
    }


def attention_products(batch: int, heads: int, grid, size: int, dtype, device, backward: bool) -> Case:
    """The products of queries, keys, weights and values over rows and columns; twice as many backward."""
    leads, times = grid
    products = []
    for count, length in ((batch * heads * leads, times), (batch * heads * times, leads)):
        vectors = torch.randn(count, length, size, dtype=dtype, device=device)
        scores = torch.empty(count, length, length, dtype=dtype, device=device)
        products.append((vectors, scores, torch.empty_like(vectors)))

    def case():
        for vectors, scores, out in products:
            for _ in range(3 if backward else 1):
                torch.bmm(vectors, vectors.transpose(1, 2), out=scores)
                torch.bmm(scores, vectors, out=out)

    return case


def attention_memory(name: str, heads: int, grid: tuple[int, int], size: int) -> float:
    """MiB that one forward adds to the peak of a fresh process."""
    arguments = [sys.executable, __file__, "--memory-of", name, *map(str, (heads, *grid, size))]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def print_memory_of(name: str, heads: int, leads: int, times: int, size: int) -> None:
    attend = ATTEND[name]
    attend(torch.randn(1, 4, 3, heads, size), None, (2, 2), 1.0)  # libraries are loaded before the measurement
    qkv = torch.randn(1, leads * times, 3, heads, size)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts from here
    before = peak_memory()
    with torch.no_grad():
        attend(qkv, None, (leads, times), size**-0.5)
    print(peak_memory() - before)


# ----------------------------------------------------------------------------------------------------------------------
# Embedding


def embedding_cases(model: EcgJepaModel, batch: int, implementations, dtype, device) -> dict[str, Case]:
    signal = torch.randn(batch, 8, 2500, device=device) * 0.3

    def run(implementation: str) -> Case:
        def case():
            model.config._attn_implementation_internal = implementation
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return model(signal).pooler_output

        return case

    limit = linear_products(model, batch * 400, dtype, backward=False)
    return {name: run(name) for name in implementations} | {"GEMM": limit}


def linear_products(module: torch.nn.Module, rows: int, dtype, backward: bool, skip: str = "patch_embedding") -> Case:
    """The matrix products of all linear layers over `rows` tokens; backward two more a layer (inputs, weights)."""
    linears = [m for name, m in module.named_modules() if isinstance(m, torch.nn.Linear) and skip not in name]
    weights = [linear.weight.detach().to(dtype) for linear in linears]
    sizes = {size for weight in weights for size in weight.shape}
    tokens = {size: torch.randn(rows, size, dtype=dtype, device=weights[0].device) for size in sizes}
    outputs = {size: torch.empty_like(values) for size, values in tokens.items()}
    grads = {weight.shape: torch.empty_like(weight) for weight in weights}

    def case():
        for weight in weights:
            after, before = weight.shape
            torch.mm(tokens[before], weight.t(), out=outputs[after])
            if backward:
                torch.mm(tokens[after], weight, out=outputs[before])
                torch.mm(tokens[after].t(), tokens[before], out=grads[weight.shape])

    return case


# ----------------------------------------------------------------------------------------------------------------------
# Training step


def step_cases(batch: int, device, mixed: bool) -> dict[str, Case]:
    model = EcgJepaForPreTraining(EcgJepaConfig()).train().to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.05, fused=True)
    signal = torch.randn(batch, 8, 2500, device=device) * 0.3
    time_mask = torch.arange(50) % 5 < 3  # 20 of 50 times visible

    def run(implementation: str, dtype) -> Case:
        def case():
            model.config._attn_implementation_internal = implementation
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(signal, time_mask=time_mask).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update_teacher(0.996)

        return case

    limits = [
        linear_products(model.teacher, batch * 400, torch.float32, backward=False),
        linear_products(model.encoder, batch * 160, torch.float32, backward=True),
        linear_products(model.predictor.layers, batch * 400, torch.float32, backward=True),
    ]
    cases = {name: run(name, torch.float32) for name in ("dense", "sdpa", "cropa")}
    if mixed:
        cases["cropa bf16"] = run("cropa", torch.bfloat16)
    return cases | {"GEMM": lambda: [limit() for limit in limits]}


# ----------------------------------------------------------------------------------------------------------------------
# Table


def show(what: str, seconds: dict[str, float], reach: str = "") -> None:
    """One row: milliseconds of each case, then cropa against the others."""
    times = "  ".join(f"{name} {1000 * value:9.1f}" for name, value in seconds.items())
    ratios = [f"{seconds[name] / seconds['cropa']:.2f}x {name}" for name in ("dense", "sdpa") if name in seconds]
    ratios.append(f"{seconds['GEMM'] / seconds['cropa']:.2f} of the GEMM limit")
    print(f"{what:34s} {times}   cropa: {', '.join(ratios)}{f'   (to reach: {reach})' if reach else ''}", flush=True)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()


def has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about five minutes on two cores")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.memory_of:
        name, *sizes = options.memory_of
        print_memory_of(name, *map(int, sizes))
        return

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = has_fast_bfloat16(device)
    bfloat16 = "in hardware" if mixed else "not in hardware, left out"
    print(f"torch {torch.__version__}, {device_name(device)}, {options.threads} threads, bfloat16 {bfloat16}")
    print("milliseconds a call, medians\n")
    bench_attention(options.quick, device, mixed)
    bench_embedding(options.quick, device, mixed)
    bench_step(options.quick, device, mixed)


def bench_attention(quick: bool, device: torch.device, mixed: bool) -> None:
    rounds = 9 if quick else 25
    for dtype in [torch.float32] + [torch.bfloat16] * mixed:
        kind = str(dtype).removeprefix("torch.")
        for backward, reach in ((False, "6x dense, 1.6x sdpa"), (True, "4x dense, 1.8x sdpa")):
            cases = attention_cases(8, 16, (8, 50), 48, dtype, device, backward)
            what = f"attention, batch 8, {kind}, {'fwd + bwd' if backward else 'forward'}"
            show(what, medians(cases, rounds), reach if dtype == torch.float32 else "")
    cases = attention_cases(1, 12, (12, 400), 64, torch.float32, device, False)
    show("attention, 12 leads x 400 patches", medians(cases, 3 if quick else 9), "12x dense, 4x sdpa")
    if device.type == "cpu":
        memory = {name: attention_memory(name, 12, (12, 400), 64) for name in ATTEND}
        peaks = "  ".join(f"{name} {value:9.1f}" for name, value in memory.items())
        share = memory["dense"] / memory["cropa"]
        print(f"{'  its peak memory, MiB':34s} {peaks}   cropa: 1/{share:.0f} of dense   (to reach: 1/6)", flush=True)


def bench_embedding(quick: bool, device: torch.device, mixed: bool) -> None:
    model = EcgJepaModel(EcgJepaConfig()).eval().to(device)
    for dtype in [torch.float32] + [torch.bfloat16] * mixed:
        kind = str(dtype).removeprefix("torch.")
        for batch, rounds in ((1, 7), (8, 3), (32, 1)) if quick else ((1, 25), (8, 9), (32, 5)):
            cases = embedding_cases(model, batch, ATTEND, dtype, device)
            reach = "0.86" if dtype == torch.float32 else "0.72"
            show(f"embedding, batch {batch}, {kind}", medians(cases, rounds), f"{reach} of the GEMM limit")
    if device.type == "cuda":
        compiled = torch.compile(model)
        cases = embedding_cases(compiled, 32, ["sdpa", "cropa"], torch.bfloat16, device)
        show("embedding, batch 32, bf16 compiled", medians(cases, 9))


def bench_step(quick: bool, device: torch.device, mixed: bool) -> None:
    seconds = medians(step_cases(8, device, mixed), 1 if quick else 5)
    show("training step, batch 8", seconds, "0.84 of the GEMM limit")
    if mixed:
        print(f"{'':34s} bf16: {seconds['dense'] / seconds['cropa bf16']:.2f}x the float32 dense step (to reach: 1.8x)")


if __name__ == "__main__":
    main()
