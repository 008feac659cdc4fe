"""The Triton kernels of model/fused/cuda/packed_spikes.py, compiled at their first call.

Trains and values are contiguous, channels last, but for q, k and v, whose rows have strides.
Arguments in capitals are constants of a compiled kernel: what is in a tile (powers of 2), and what
it is for. With WIDE a train is built up in 64 bits instead of 32.
"""

import triton
import triton.language as tl


@triton.jit
def _charged(potential, current):
    """The membrane potential after one step, and whether it fires."""
    charged = potential * 0.5 + current
    fires = charged >= 1.0
    return tl.where(fires, 0.0, charged), fires


@triton.jit
def _sums(
    x, added, high, low, m, n, t, rows, height, width, channels, filters,
    SIDE: tl.constexpr, VALUES: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, FILTERS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums [ROWS, FILTERS] of step t over taps and channels, for pixels m and filters n."""
    column = m % width
    row = (m // width) % height
    parts = tl.cdiv(channels, CHANNELS)
    before = tl.full((ROWS,), rows, tl.int64) * t
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    for i in range(SIDE * SIDE * parts):
        tap = i // parts
        c = (i % parts) * CHANNELS + tl.arange(0, CHANNELS)
        down = tap // SIDE - SIDE // 2
        right = tap % SIDE - SIDE // 2
        inside = (m < rows) & (row + down >= 0) & (row + down < height)
        inside = inside & (column + right >= 0) & (column + right < width)
        there = inside[:, None] & (c < channels)[None, :]
        pixel = m.to(tl.int64) + down * width + right
        weight = (tap * channels + c)[:, None] * filters + n[None, :]
        kept = (c < channels)[:, None] & (n < filters)[None, :]
        if VALUES:
            place = (pixel + before)[:, None] * channels + c[None, :]
            given = tl.load(x + place, mask=there, other=0.0)
            weights = tl.load(high + weight, mask=kept, other=0.0)
            total = tl.dot(given, weights, total, input_precision="tf32x3")
        else:
            place = pixel[:, None] * channels + c[None, :]
            fired = (tl.load(x + place, mask=there, other=0) >> t) & 1
            if ADDED:
                fired += (tl.load(added + place, mask=there, other=0) >> t) & 1
            given = fired.to(tl.float16)
            total = tl.dot(given, tl.load(high + weight, mask=kept, other=0.0), total)
            total = tl.dot(given, tl.load(low + weight, mask=kept, other=0.0), total)
    return total


@triton.jit
def fire(
    x, added, high, low, unit, shift, fired,
    rows, height, width, channels, filters, steps,
    SIDE: tl.constexpr, VALUES: tl.constexpr, HELD: tl.constexpr, ADDED: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, FILTERS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A layer: a tile of pixels m = (b, y, x) and filters n, over all steps, is one program."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    scale = tl.load(unit + n, mask=n < filters, other=0.0)[None, :]
    offset = tl.load(shift + n, mask=n < filters, other=0.0)[None, :]
    potential = tl.zeros((ROWS, FILTERS), tl.float32)
    train = tl.zeros((ROWS, FILTERS), tl.int64 if WIDE else tl.int32)
    if HELD:
        held = _sums(
            x, added, high, low, m, n, 0, rows, height, width, channels,
            filters, SIDE, VALUES, ADDED, ROWS, FILTERS, CHANNELS,
        )  # fmt: skip
    for t in range(steps):
        if HELD:
            total = held
        else:
            total = _sums(
                x, added, high, low, m, n, t, rows, height, width, channels, filters,
                SIDE, VALUES, ADDED, ROWS, FILTERS, CHANNELS,
            )  # fmt: skip
        potential, fires = _charged(potential, total * scale + offset)
        train |= fires.to(train.dtype) << t
    place = m.to(tl.int64)[:, None] * filters + n[None, :]
    there = (m < rows)[:, None] & (n < filters)[None, :]
    tl.store(fired + place, train.to(fired.dtype.element_ty), mask=there)


@triton.jit
def pool(trains, pooled, count, height, width, channels, TRAINS: tl.constexpr):
    """What fired in 3 x 3 neighbours, at every second pixel."""
    at = tl.program_id(0).to(tl.int64) * TRAINS + tl.arange(0, TRAINS)
    c = at % channels
    pixel = at // channels
    across = (width + 1) // 2
    high = (height + 1) // 2
    column = (pixel % across) * 2
    row = (pixel // across) % high * 2
    sample = pixel // across // high
    fired = tl.zeros((TRAINS,), trains.dtype.element_ty)
    for tap in tl.static_range(9):
        y = row + (tap // 3 - 1)
        x = column + (tap % 3 - 1)
        inside = (at < count) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = ((sample * height + y) * width + x) * channels + c
        fired |= tl.load(trains + place, mask=inside, other=0)
    tl.store(pooled + at, fired, mask=at < count)


@triton.jit
def spikes(trains, added, values, count, steps, ADDED: tl.constexpr, TRAINS: tl.constexpr):
    """Trains [...] as values [T, ...], added up where ADDED."""
    at = tl.program_id(0).to(tl.int64) * TRAINS + tl.arange(0, TRAINS)
    there = at < count
    train = tl.load(trains + at, mask=there, other=0)
    if ADDED:
        other = tl.load(added + at, mask=there, other=0)
    place = at
    for t in range(steps):
        fired = (train >> t) & 1
        if ADDED:
            fired += (other >> t) & 1
        tl.store(values + place, fired.to(tl.float32), mask=there)
        place += count


@triton.jit
def attend_over_tokens(
    q, k, v, fired, targets, sources, heads, width, stride_q, stride_k, stride_v, scale, steps,
    WIDE: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One sample and head, and a tile of its asking tokens, is one program."""
    sample = (tl.program_id(0) // heads).to(tl.int64)
    head = tl.program_id(0) % heads
    i = tl.arange(0, WIDTH)
    n = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    there = (n < targets)[:, None] & (i < width)[None, :]
    asking = sample * targets + n
    asks = tl.load(
        q + asking[:, None] * stride_q + head * width + i[None, :], mask=there, other=0
    )  # fmt: skip
    potential = tl.zeros((TOKENS, WIDTH), tl.float32)
    train = tl.zeros((TOKENS, WIDTH), tl.int64 if WIDE else tl.int32)
    for t in range(steps):
        met = tl.zeros((WIDTH, WIDTH), tl.float32)  # k^T v
        for first in range(0, sources, TOKENS):
            s = first + tl.arange(0, TOKENS)
            known = (s < sources)[:, None] & (i < width)[None, :]
            asked = sample * sources + s
            keys = tl.load(
                k + asked[:, None] * stride_k + head * width + i[None, :], mask=known, other=0
            )  # fmt: skip
            values = tl.load(
                v + asked[:, None] * stride_v + head * width + i[None, :], mask=known, other=0
            )  # fmt: skip
            keys = ((keys >> t) & 1).to(tl.float16)
            values = ((values >> t) & 1).to(tl.float16)
            met = tl.dot(tl.trans(keys), values, met)
        # Counts of up to N tokens, which halves do not hold.
        current = tl.dot(((asks >> t) & 1).to(tl.float32), met, input_precision="ieee")
        potential, fires = _charged(potential, current * scale)
        train |= fires.to(train.dtype) << t
    place = asking[:, None] * (heads * width) + head * width + i[None, :]
    tl.store(fired + place, train.to(fired.dtype.element_ty), mask=there)


@triton.jit
def attend_over_steps(
    q, k, v, fired, places, heads, width, stride_q, stride_k, stride_v, scale, steps,
    WIDE: tl.constexpr, PLACES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A tile of places (sample, token, head) is one program."""
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    token = (place // heads).to(tl.int64)
    own = place % heads
    i = tl.arange(0, WIDTH)
    there = (place < places)[:, None] & (i < width)[None, :]
    potential = tl.zeros((PLACES, WIDTH), tl.float32)
    train = tl.zeros((PLACES, WIDTH), tl.int64 if WIDE else tl.int32)
    for t in range(steps):
        # Channels of one head's width at step t hold another head at another step.
        mixed = t * heads + own
        inner = ((mixed // steps) * width)[:, None] + i[None, :]
        asks = tl.load(q + token[:, None] * stride_q + inner, mask=there, other=0)
        keys = tl.load(k + token[:, None] * stride_k + inner, mask=there, other=0)
        values = tl.load(v + token[:, None] * stride_v + inner, mask=there, other=0)
        asks = (asks >> (mixed % steps)[:, None]) & 1
        current = tl.zeros((PLACES, WIDTH), tl.int32)
        for s in range(steps):
            weight = tl.sum((asks & (keys >> s)).to(tl.int32), axis=1)
            current += weight[:, None] * ((values >> s) & 1).to(tl.int32)
        potential, fires = _charged(potential, current.to(tl.float32) * scale)
        train |= fires.to(train.dtype) << t
    at = token[:, None] * (heads * width) + own[:, None] * width + i[None, :]
    tl.store(fired + at, train.to(fired.dtype.element_ty), mask=there)
