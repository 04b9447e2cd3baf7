"""Cross-Pattern Attention (CroPA, arXiv 2410.08559): a patch attends within its lead and within its time step.

Tokens lie on a (lead, time) grid in lead-major order. Token (l, t) attends to the T tokens of lead l and to the L tokens
of time t, itself counted once: T + L - 1 keys under one softmax. Three implementations compute the same numbers:

- `eager`: the dense mask and the full matrix of weights; the only one that returns the weights.
- `sdpa`: PyTorch's scaled_dot_product_attention under the dense boolean mask.
- `cropa`: factorised into rows (leads) and columns (times); never builds anything of size (L * T)^2. The default.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

# Stands for -inf as the score of a key that may not be seen: finite, so that rows without any key stay finite too.
HIDDEN_KEY = -1e30

# The fused form works on as many records at a time as have about this many tokens: their scores stay in the cache, and
# no temporary is large enough for the allocator to hand its pages back to the system after every layer.
TOKENS_A_CHUNK = 800


class CrossPatternAttention(nn.Module):
    """Multi-head cross-pattern attention over a (lead, time) grid.

    With a grid of one lead it is plain self-attention over time, which is how the predictor uses it.
    """

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_size = hidden_size // num_heads
        self.scaling = self.head_size**-0.5
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: Tensor, grid: tuple[int, int], valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            hidden_states: (batch, leads * times, hidden), lead-major.
            grid: (leads, times).
            valid: (batch, leads, times) boolean, False where a token may not be attended to; None if all may.

        Returns:
            The attended tokens, (batch, leads * times, hidden), and the weights (batch, heads, tokens, tokens) from the
            eager implementation, None from the others. A token with nothing to attend to gets zeros.
        """
        qkv = self.qkv(hidden_states).unflatten(-1, (3, -1, self.head_size))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, tokens, head_size)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_cropa)
        attended, weights = attend(self, query, key, value, valid, scaling=self.scaling, grid=grid)
        return self.proj(attended.flatten(2)), weights


@lru_cache(maxsize=16)
def cropa_pattern(num_leads: int, num_times: int, device: torch.device) -> Tensor:
    """The dense pattern, (leads * times, leads * times) boolean: True where the row's token attends to the column's."""
    lead = torch.arange(num_leads, device=device).repeat_interleave(num_times)
    time = torch.arange(num_times, device=device).repeat(num_leads)
    return (lead[:, None] == lead) | (time[:, None] == time)


def _dense_mask(grid: tuple[int, int], valid: Tensor | None, device: torch.device) -> Tensor:
    """The pattern without invalid keys, broadcastable to (batch, heads, tokens, tokens)."""
    pattern = cropa_pattern(*grid, device)[None, None]
    return pattern if valid is None else pattern & valid.flatten(1)[:, None, None, :]


def eager_cropa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, scaling: float, grid, **_
) -> tuple[Tensor, Tensor]:
    """Dense scores, masked softmax. query, key, value: (batch, heads, tokens, head_size)."""
    mask = _dense_mask(grid, valid, query.device)
    scores = (query @ key.transpose(-1, -2)) * scaling
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if valid is not None:
        weights = weights * mask  # a row without any key is uniform at this point; it attends to nothing
    return (weights @ value).transpose(1, 2), weights


def sdpa_cropa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, scaling: float, grid, **_
) -> tuple[Tensor, None]:
    """PyTorch's fused attention under the dense mask; without a mask where the pattern is full anyway."""
    full = valid is None and min(grid) == 1
    mask = None if full else _dense_mask(grid, valid, query.device)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return attended.transpose(1, 2), None


def factorised_cropa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, scaling: float, grid, **_
) -> tuple[Tensor, None]:
    """Rows and columns of the grid apart, one softmax over both: L * T * (T + L) scores instead of (L * T)^2."""
    if min(grid) == 1:  # one lead or one time: every token sees every other, which PyTorch's own kernel does best
        return sdpa_cropa(module, query, key, value, valid, scaling=scaling, grid=grid)
    if query.device.type == "cpu" and query.dtype != torch.float16 and not torch.compiler.is_compiling():
        return _FusedOnCpu.apply(query, key, value, valid, scaling, grid), None
    return _factorised(query, key, value, valid, scaling, grid), None


# An instance of our own: the registry behind it is global to a process, and a remote copy of this file must neither
# overwrite an installed one nor be overwritten by it.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_cropa
ALL_ATTENTION_FUNCTIONS["cropa"] = factorised_cropa

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "cropa")


def _rows(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, heads, leads * times, channels) -> (batch, leads, heads, times, channels)."""
    return tokens.unflatten(2, grid).transpose(1, 2)


def _columns(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, heads, leads * times, channels) -> (batch, times, heads, leads, channels)."""
    return tokens.unflatten(2, grid).permute(0, 3, 1, 2, 4)


def _rows_to_grid(rows: Tensor) -> Tensor:
    """(batch, leads, heads, times, ...) -> (batch, leads, times, heads, ...)."""
    return rows.transpose(2, 3)


def _columns_to_grid(columns: Tensor) -> Tensor:
    """(batch, times, heads, leads, ...) -> (batch, leads, times, heads, ...)."""
    return columns.movedim(3, 1)


def _row_bias(valid: Tensor | None, dtype: torch.dtype) -> Tensor | float:
    """What to add to row scores: HIDDEN_KEY at invalid keys; (batch, leads, 1, 1, times)."""
    if valid is None:
        return 0.0
    return torch.zeros_like(valid, dtype=dtype).masked_fill_(~valid, HIDDEN_KEY)[:, :, None, None, :]


def _column_bias(num_leads: int, valid: Tensor | None, like: Tensor) -> Tensor:
    """What to add to column scores: HIDDEN_KEY on the diagonal (a token counts itself in its row) and at invalid keys."""
    bias = like.new_zeros(num_leads, num_leads).fill_diagonal_(HIDDEN_KEY)
    if valid is None:
        return bias
    return bias.masked_fill(~valid.transpose(1, 2)[:, :, None, None, :], HIDDEN_KEY)  # (batch, times, 1, leads, leads)


def _has_key(valid: Tensor) -> Tensor:
    """Whether a token has anything to attend to: (batch, leads, times) boolean."""
    return valid.any(2, keepdim=True) | valid.any(1, keepdim=True)


def _factorised(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, scaling: float, grid) -> Tensor:
    """The factorised form in plain operations: any device, differentiable, traceable. (batch, tokens, heads, head_size)."""
    query = query * scaling
    row_scores = _rows(query, grid) @ _rows(key, grid).transpose(-1, -2)
    column_scores = _columns(query, grid) @ _columns(key, grid).transpose(-1, -2)
    row_scores = row_scores.float() + _row_bias(valid, torch.float32)
    column_scores = column_scores.float() + _column_bias(grid[0], valid, column_scores.float())
    row_max = _rows_to_grid(row_scores.amax(-1, keepdim=True))
    largest = torch.maximum(row_max, _columns_to_grid(column_scores.amax(-1, keepdim=True))).detach()
    row_weights = (row_scores - largest.transpose(2, 3)).exp()
    column_weights = (column_scores - largest.movedim(1, 3)).exp()
    total = _rows_to_grid(row_weights.sum(-1, keepdim=True)) + _columns_to_grid(column_weights.sum(-1, keepdim=True))
    attended = _rows_to_grid(row_weights.to(value.dtype) @ _rows(value, grid))
    attended = attended + _columns_to_grid(column_weights.to(value.dtype) @ _columns(value, grid))
    attended = attended / total.to(value.dtype)
    if valid is not None:
        attended = attended * _has_key(valid)[..., None, None]
    return attended.flatten(1, 2)


class _FusedOnCpu(torch.autograd.Function):
    """The factorised form around PyTorch's CPU flash kernel, a few records at a time.

    The kernel attends along the rows and returns the logarithm of its denominator; the columns are small products; both
    are joined under one denominator. The backward pass needs only that joint logarithm: given it and the joint output,
    the kernel's own backward is exactly the rows' part of the gradient (P = exp(S - log denominator) holds either way).
    """

    @staticmethod
    def forward(ctx, query, key, value, valid, scaling, grid):
        attended = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        log_total = query.new_empty(attended.shape[:3], dtype=torch.float32)
        for part in _chunks(query):
            _attend(*(x[part] for x in (query, key, value)), _part(valid, part), scaling, grid, attended[part], log_total[part])
        ctx.save_for_backward(query, key, value, valid, attended, log_total)
        ctx.scaling, ctx.grid = scaling, grid
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_attended):
        query, key, value, valid, attended, log_total = ctx.saved_tensors
        # One block for the three gradients, laid out as the output of the qkv projection that they flow back into.
        batch, heads, tokens, head_size = query.shape
        grads = query.new_empty(batch, tokens, 3, heads, head_size).permute(2, 0, 3, 1, 4).unbind(0)
        if valid is not None:
            grad_attended = grad_attended * _has_key(valid).flatten(1)[..., None, None]
        for part in _chunks(query):
            inputs = (x[part] for x in (query, key, value))
            outputs = (x[part] for x in (grad_attended, attended, log_total))
            _attend_backward(*inputs, _part(valid, part), ctx.scaling, ctx.grid, *outputs, [grad[part] for grad in grads])
        return *grads, None, None, None


def _chunks(query: Tensor) -> list[slice]:
    records = max(1, TOKENS_A_CHUNK // query.shape[2])
    return [slice(start, start + records) for start in range(0, query.shape[0], records)]


def _part(valid: Tensor | None, part: slice) -> Tensor | None:
    return None if valid is None else valid[part]


def _flash_rows(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, heads, leads * times, channels) -> (batch * leads, heads, times, channels), without a copy."""
    return _rows(tokens, grid).flatten(0, 1)


def _flash_bias(valid: Tensor | None, query: Tensor) -> Tensor | None:
    return None if valid is None else _row_bias(valid, query.dtype).flatten(0, 1)  # (batch * leads, 1, 1, times)


def _attend(query, key, value, valid, scaling, grid, attended, log_total) -> None:
    """Write a chunk's attention into `attended` (batch, tokens, heads, head_size) and `log_total` (... heads)."""
    rows, rows_log_total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(_flash_rows(x, grid) for x in (query, key, value)), attn_mask=_flash_bias(valid, query), scale=scaling
    )
    rows_log_total = rows_log_total.unflatten(0, (-1, grid[0])).transpose(1, 3)  # (batch, times, heads, leads)
    scores = (_columns(query, grid) @ _columns(key, grid).transpose(-1, -2)).float().mul_(scaling)
    scores.add_(_column_bias(grid[0], valid, scores))
    joint = torch.logaddexp(scores.logsumexp(-1), rows_log_total)
    columns = scores.sub_(joint[..., None]).exp_().to(value.dtype) @ _columns(value, grid)
    share = _columns_to_grid((rows_log_total - joint).exp_().to(value.dtype))[..., None]
    if valid is not None:
        has_key = _has_key(valid)[..., None, None]
        share, columns = share * has_key, columns * has_key.movedim(1, 3)
    attended = attended.unflatten(1, grid)
    torch.mul(_rows_to_grid(rows.unflatten(0, (-1, grid[0]))), share, out=attended)
    attended.add_(_columns_to_grid(columns))
    log_total.unflatten(1, grid).copy_(_columns_to_grid(joint))


def _attend_backward(query, key, value, valid, scaling, grid, grad_attended, attended, log_total, grads) -> None:
    """Write a chunk's gradients into `grads`, each (batch, heads, tokens, head_size)."""
    by_head = [x.transpose(1, 2) for x in (grad_attended, attended)]  # (batch, heads, tokens, head_size)
    log_total = log_total.transpose(1, 2)[..., None]
    row_grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        _flash_rows(by_head[0], grid),
        *(_flash_rows(x, grid) for x in (query, key, value, by_head[1])),
        _flash_rows(log_total, grid).squeeze(-1).contiguous(),
        0.0,
        False,
        attn_mask=_flash_bias(valid, query),
        scale=scaling,
    )
    query, key, value, grad = (_columns(x, grid).contiguous() for x in (query, key, value, by_head[0]))
    correction = _columns((by_head[0] * by_head[1]).sum(-1, keepdim=True, dtype=torch.float32), grid)
    weights = (query @ key.transpose(-1, -2)).float().mul_(scaling)
    weights.add_(_column_bias(grid[0], valid, weights)).sub_(_columns(log_total, grid)).exp_()
    grad_scores = (grad @ value.transpose(-1, -2)).float().sub_(correction).mul_(weights).mul_(scaling).to(query.dtype)
    column_grads = (
        grad_scores @ key,
        grad_scores.transpose(-1, -2) @ query,
        weights.to(grad.dtype).transpose(-1, -2) @ grad,
    )
    for total, rows, columns in zip(grads, row_grads, column_grads, strict=True):
        rows = rows.unflatten(0, (-1, grid[0])).transpose(1, 2)  # (batch, heads, leads, times, head_size)
        torch.add(rows, columns.permute(0, 2, 3, 1, 4), out=total.unflatten(2, grid))
