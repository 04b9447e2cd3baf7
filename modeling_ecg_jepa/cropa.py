"""Cross-Pattern Attention (CroPA, arXiv 2410.08559): a patch attends within its lead and within its time step.

Tokens lie on a (lead, time) grid in lead-major order. Token (l, t) attends to the T tokens of lead l and to the L
tokens of time t, itself counted once: T + L - 1 keys under one softmax. Three implementations compute the same numbers:

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

# The fused form works on so many scores at a time, of a few records or of a few heads of one: they stay in the cache,
# and no temporary is so large that the allocator hands its pages back to the system after every layer.
SCORES_A_CHUNK = 2**19


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
        qkv = self.qkv(hidden_states).unflatten(-1, (3, -1, self.head_size))  # (batch, tokens, 3, heads, head_size)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_cropa)
        attended, weights = attend(qkv, valid, grid, self.scaling)
        return self.proj(attended.flatten(2)), weights


@lru_cache(maxsize=16)
def cropa_pattern(num_leads: int, num_times: int, device: torch.device) -> Tensor:
    """The dense pattern, (leads * times, leads * times) boolean: True where the row's token attends to the column's."""
    lead = torch.arange(num_leads, device=device).repeat_interleave(num_times)
    time = torch.arange(num_times, device=device).repeat(num_leads)
    return (lead[:, None] == lead) | (time[:, None] == time)


def _dense_mask(grid: tuple[int, int], valid: Tensor | None, device: torch.device) -> Tensor:
    """The pattern without invalid keys, broadcastable to (batch, heads, tokens, tokens)."""
    keys = None if valid is None else valid.flatten(1)[:, None, None, :]
    if keys is not None and min(grid) == 1:
        return keys
    pattern = (cropa_pattern.__wrapped__ if torch.compiler.is_compiling() else cropa_pattern)(*grid, device)
    return pattern if keys is None else pattern & keys


# Each implementation takes queries, keys and values as the projection packs them, (batch, tokens, 3, heads, head_size),
# so that the gradient goes back in one piece, and returns (batch, tokens, heads, head_size) and the weights or None.


def _unpack(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (batch, heads, tokens, head_size)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def eager_cropa(qkv: Tensor, valid: Tensor | None, grid: tuple[int, int], scaling: float) -> tuple[Tensor, Tensor]:
    """Dense scores, masked softmax."""
    query, key, value = _unpack(qkv)
    mask = _dense_mask(grid, valid, qkv.device)
    scores = (query @ key.transpose(-1, -2)) * scaling
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if valid is not None:
        weights = weights * mask  # a row without any key is uniform at this point; it attends to nothing
    return (weights @ value).transpose(1, 2), weights


def sdpa_cropa(qkv: Tensor, valid: Tensor | None, grid: tuple[int, int], scaling: float) -> tuple[Tensor, None]:
    """PyTorch's fused attention under the dense mask; without a mask where the pattern is full anyway."""
    full = valid is None and min(grid) == 1
    mask = None if full else _dense_mask(grid, valid, qkv.device)
    attended = F.scaled_dot_product_attention(*_unpack(qkv), attn_mask=mask, scale=scaling)
    return attended.transpose(1, 2), None


def factorised_cropa(qkv: Tensor, valid: Tensor | None, grid: tuple[int, int], scaling: float) -> tuple[Tensor, None]:
    """Rows and columns of the grid apart, one softmax over both: L * T * (T + L) scores instead of (L * T)^2."""
    if min(grid) == 1:  # one lead or one time: every token sees every other, which PyTorch's own kernel does best
        return sdpa_cropa(qkv, valid, grid, scaling)
    if qkv.device.type == "cpu" and qkv.dtype != torch.float16 and not torch.compiler.is_compiling():
        return _FusedOnCpu.apply(qkv, valid, grid, scaling), None
    return _factorised(qkv, valid, grid, scaling), None


# An instance of our own: the registry behind it is global to a process, and a remote copy of this file must neither
# overwrite an installed one nor be overwritten by it.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_cropa
ALL_ATTENTION_FUNCTIONS["cropa"] = factorised_cropa

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "cropa")


def _rows(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, leads * times, heads, channels) -> (batch, leads, heads, times, channels)."""
    return tokens.unflatten(1, grid).transpose(2, 3)


def _columns(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, leads * times, heads, channels) -> (batch, times, heads, leads, channels)."""
    return tokens.unflatten(1, grid).permute(0, 2, 3, 1, 4)


def _from_rows(rows: Tensor) -> Tensor:
    """(batch, leads, heads, times, ...) -> (batch, leads, times, heads, ...)."""
    return rows.transpose(2, 3)


def _from_columns(columns: Tensor) -> Tensor:
    """(batch, times, heads, leads, ...) -> (batch, leads, times, heads, ...)."""
    return columns.movedim(3, 1)


def _row_bias(grid: tuple[int, int], valid: Tensor | None, like: Tensor) -> Tensor | None:
    """What to add to row scores: HIDDEN_KEY at invalid keys; (batch, leads, 1, 1, times)."""
    if valid is None:
        return None
    return like.new_zeros(valid.shape).masked_fill_(~valid, HIDDEN_KEY)[:, :, None, None, :]


def _column_bias(grid: tuple[int, int], valid: Tensor | None, like: Tensor) -> Tensor:
    """What to add to column scores: HIDDEN_KEY at invalid keys and on the diagonal, as a token counts itself in its
    row; (leads, leads) or (batch, times, 1, leads, leads)."""
    bias = like.new_zeros(grid[0], grid[0]).fill_diagonal_(HIDDEN_KEY)
    if valid is None:
        return bias
    return bias.masked_fill(~valid.transpose(1, 2)[:, :, None, None, :], HIDDEN_KEY)


def _has_key(valid: Tensor) -> Tensor:
    """Whether a token has anything to attend to: (batch, leads, times) boolean."""
    return valid.any(2, keepdim=True) | valid.any(1, keepdim=True)


def _factorised(qkv: Tensor, valid: Tensor | None, grid: tuple[int, int], scaling: float) -> Tensor:
    """The factorised form in plain operations: any device, differentiable, traceable."""
    query, key, value = qkv.unbind(2)
    query = query * scaling
    row_scores = (_rows(query, grid) @ _rows(key, grid).transpose(-1, -2)).float()
    column_scores = (_columns(query, grid) @ _columns(key, grid).transpose(-1, -2)).float()
    row_bias = _row_bias(grid, valid, row_scores)
    if row_bias is not None:
        row_scores = row_scores + row_bias
    column_scores = column_scores + _column_bias(grid, valid, column_scores)
    row_max, column_max = row_scores.amax(-1, keepdim=True), column_scores.amax(-1, keepdim=True)
    largest = torch.maximum(_from_rows(row_max), _from_columns(column_max)).detach()
    row_weights = (row_scores - largest.transpose(2, 3)).exp()
    column_weights = (column_scores - largest.movedim(1, 3)).exp()
    total = _from_rows(row_weights.sum(-1, keepdim=True)) + _from_columns(column_weights.sum(-1, keepdim=True))
    attended = _from_rows(row_weights.to(value.dtype) @ _rows(value, grid))
    attended = attended + _from_columns(column_weights.to(value.dtype) @ _columns(value, grid))
    attended = attended / total.to(value.dtype)
    if valid is not None:
        attended = attended * _has_key(valid)[..., None, None]
    return attended.flatten(1, 2)


class _FusedOnCpu(torch.autograd.Function):
    """The factorised form a few records at a time, with contiguous copies for the products and the rest in place.

    Only the logarithm of each token's denominator is kept for the backward pass; the weights are computed again.
    """

    @staticmethod
    def forward(ctx, qkv, valid, grid, scaling):
        batch, tokens, _, heads, head_size = qkv.shape
        attended = qkv.new_empty(batch, tokens, heads, head_size)
        log_total = qkv.new_empty(batch, tokens, heads, 1, dtype=torch.float32)
        for records, heads in _chunks(qkv, grid):
            inputs = qkv[records, :, :, heads], None if valid is None else valid[records]
            _attend(*inputs, grid, scaling, attended[records, :, heads], log_total[records, :, heads])
        ctx.save_for_backward(qkv, valid, attended, log_total)
        ctx.grid, ctx.scaling = grid, scaling
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_attended):
        qkv, valid, attended, log_total = ctx.saved_tensors
        if valid is not None:
            grad_attended = grad_attended * _has_key(valid).flatten(1)[..., None, None]
        grad_qkv = torch.empty_like(qkv)
        for records, heads in _chunks(qkv, ctx.grid):
            inputs = qkv[records, :, :, heads], None if valid is None else valid[records]
            grad, output, logs = (x[records, :, heads] for x in (grad_attended, attended, log_total))
            _attend_backward(*inputs, ctx.grid, ctx.scaling, grad, output, logs, grad_qkv[records, :, :, heads])
        return grad_qkv, None, None, None


def _chunks(qkv: Tensor, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Slices of records and heads with about SCORES_A_CHUNK scores each."""
    batch, tokens, _, heads, _ = qkv.shape
    scores_a_head = tokens * sum(grid)
    heads_a_chunk = min(heads, max(1, SCORES_A_CHUNK // scores_a_head))
    records_a_chunk = max(1, SCORES_A_CHUNK // (scores_a_head * heads))
    return [
        (slice(record, record + records_a_chunk), slice(head, head + heads_a_chunk))
        for record in range(0, batch, records_a_chunk)
        for head in range(0, heads, heads_a_chunk)
    ]


def _attend(qkv, valid, grid, scaling, attended, log_total) -> None:
    """Write a chunk's attention into `attended` (batch, tokens, heads, head_size) and `log_total` (... heads, 1)."""
    parts = []
    for axis, bias, back in ((_rows, _row_bias, _from_rows), (_columns, _column_bias, _from_columns)):
        query, key, value = _packed(qkv, axis, grid)
        scores = _scores(query, key, bias(grid, valid, query), scaling)
        largest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(largest).exp_()
        parts.append([back(x) for x in (_multiply(weights.to(value.dtype), value), largest, weights.sum(-1, True))])
    (rows, row_largest, row_total), (columns, column_largest, column_total) = parts
    largest = torch.maximum(row_largest, column_largest)
    row_share, column_share = (row_largest - largest).exp_(), (column_largest - largest).exp_()
    total = (row_total * row_share).addcmul_(column_total, column_share)
    log_total.unflatten(1, grid).copy_(total.log().add_(largest))
    if valid is not None:
        total.masked_fill_(~_has_key(valid)[..., None, None], torch.inf)
    row_share, column_share = row_share.div_(total).to(rows.dtype), column_share.div_(total).to(rows.dtype)
    torch.addcmul(columns * column_share, rows, row_share, out=attended.unflatten(1, grid))


def _attend_backward(qkv, valid, grid, scaling, grad_attended, attended, log_total, grad_qkv) -> None:
    """Write a chunk's gradient into `grad_qkv` (batch, tokens, 3, heads, head_size)."""
    correction = (grad_attended * attended).sum(-1, keepdim=True, dtype=torch.float32)
    parts = []
    for axis, bias, back in ((_rows, _row_bias, _from_rows), (_columns, _column_bias, _from_columns)):
        query, key, value = packed = _packed(qkv, axis, grid)
        grad = axis(grad_attended, grid).contiguous()
        weights = _scores(query, key, bias(grid, valid, query), scaling).sub_(axis(log_total, grid)).exp_()
        grad_scores = _multiply(grad, value.transpose(-1, -2)).float()
        grad_scores = grad_scores.sub_(axis(correction, grid)).mul_(weights).mul_(scaling).to(query.dtype)
        grads = torch.empty_like(packed)
        _multiply(grad_scores, key, out=grads[0])
        _multiply(grad_scores.transpose(-1, -2), query, out=grads[1])
        _multiply(weights.to(grad.dtype).transpose(-1, -2), grad, out=grads[2])
        parts.append([back(x) for x in grads])
    for total, rows, columns in zip(grad_qkv.unbind(2), *parts, strict=True):
        torch.add(rows, columns, out=total.unflatten(1, grid))


def _packed(qkv: Tensor, axis, grid: tuple[int, int]) -> Tensor:
    """Queries, keys and values along an axis of the grid, contiguous: (3, batch, places, heads, keys, head_size)."""
    return axis(qkv.flatten(2, 3), grid).unflatten(2, (3, -1)).movedim(2, 0).contiguous()


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Scaled and biased products of queries and keys, (..., keys, keys) float32."""
    shape = (*query.shape[:-1], key.shape[-2])
    if bias is None:
        start, beta = query.new_empty(1, 1, 1), 0
    else:
        start, beta = bias.expand(shape).flatten(0, -3), 1
    query, key = query.flatten(0, -3), key.flatten(0, -3)
    return torch.baddbmm(start, query, key.transpose(1, 2), beta=beta, alpha=scaling).float().view(shape)


def _multiply(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched matrix product over the last two dimensions; the others must be contiguous."""
    shape = (*left.shape[:-1], right.shape[-1])
    out = None if out is None else out.flatten(0, -3)
    return torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out=out).view(shape)
