"""The Triton kernels of model/fused/cuda/packed_spikes.py, compiled at their first call.

Packed spikes and values are contiguous, channels last, but for q, k and v, whose rows (tokens)
have strides. Arguments in capitals are compile-time constants: BLOCK_M x BLOCK_N outputs per
program over BLOCK_K channels and BLOCK_T steps at a time (powers of 2), the neuron's DECAY, and
variants of a kernel. With WIDE, packed spikes are built in 64 bits instead of 32.
"""

import triton
import triton.language as tl


@triton.jit
def _charge(potential, current, DECAY: tl.constexpr):
    """Return the membrane potential after one step (reset to 0 by a spike), and the spike."""
    charged = potential * DECAY + current
    spike = charged >= 1.0
    return tl.where(spike, 0.0, charged), spike


@triton.jit
def _accumulate(
    x, added, high, low, m, row, column, mask_m, n, t, steps, pixels, height, width, channels,
    filters, SIDE: tl.constexpr, VALUES: tl.constexpr, HALF: tl.constexpr, ADDED: tl.constexpr,
    FLAT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums over taps and channels for pixels m, at row and column of their samples, and filters n,
    at BLOCK_T steps from t on; those of pixels outside of mask_m are not to be used.

    [BLOCK_T * BLOCK_M, BLOCK_N]: the rows of a step are together; those of steps from `steps` on
    are not to be used. With FLAT, BLOCK_K counts pairs of a tap and a channel, not channels.

    x: packed spikes [pixels, channels], or values [T, pixels, channels].
    high, low: weights [SIDE * SIDE, channels, filters]. With HALF, spikes take `high` alone.
    """
    blocks_k = tl.cdiv(channels, BLOCK_K)
    blocks = tl.cdiv(SIDE * SIDE * channels, BLOCK_K) if FLAT else SIDE * SIDE * blocks_k
    step_offset = tl.full((BLOCK_M,), pixels, tl.int64) * t  # of values, in pixels
    shifts = t + tl.arange(0, BLOCK_T)
    accumulator = tl.zeros((BLOCK_T * BLOCK_M, BLOCK_N), tl.float32)
    for i in range(blocks):
        # Pixels beyond the border are 0: padding 1. mask_x, offset_x: [BLOCK_M, BLOCK_K].
        if FLAT:
            index_w = i * BLOCK_K + tl.arange(0, BLOCK_K)
            mask_k = index_w < SIDE * SIDE * channels
            k = index_w % channels
            down = index_w // channels // SIDE - SIDE // 2
            right = index_w // channels % SIDE - SIDE // 2
            tap_row = row[:, None] + down[None, :]
            tap_column = column[:, None] + right[None, :]
            mask_x = mask_m[:, None] & mask_k[None, :] & (tap_row >= 0) & (tap_row < height)
            mask_x = mask_x & (tap_column >= 0) & (tap_column < width)
            pixel = m.to(tl.int64)[:, None] + (down * width + right)[None, :]
        else:
            tap = i // blocks_k
            k = (i % blocks_k) * BLOCK_K + tl.arange(0, BLOCK_K)
            index_w = tap * channels + k
            mask_k = k < channels
            down = tap // SIDE - SIDE // 2
            right = tap % SIDE - SIDE // 2
            mask_tap = mask_m & (row + down >= 0) & (row + down < height)
            mask_tap = mask_tap & (column + right >= 0) & (column + right < width)
            mask_x = mask_tap[:, None] & mask_k[None, :]
            pixel = (m.to(tl.int64) + down * width + right)[:, None]
        mask_w = mask_k[:, None] & (n < filters)[None, :]  # [BLOCK_K, BLOCK_N]
        offset_w = index_w[:, None] * filters + n[None, :]
        offset_x = pixel * channels + k[None, :]
        if VALUES:
            offset_x += step_offset[:, None] * channels
            if BLOCK_T == 1:
                values = tl.load(x + offset_x, mask=mask_x, other=0.0)
            else:
                from_t = tl.arange(0, BLOCK_T).to(tl.int64) * pixels * channels
                mask_t = (shifts < steps)[:, None, None] & mask_x[None, :, :]
                values = tl.load(
                    x + offset_x[None, :, :] + from_t[:, None, None], mask=mask_t, other=0.0
                )
                values = tl.reshape(values, (BLOCK_T * BLOCK_M, BLOCK_K))
            weights = tl.load(high + offset_w, mask=mask_w, other=0.0)
            accumulator = tl.dot(values, weights, accumulator, input_precision="tf32x3")
        else:
            packed = tl.load(x + offset_x, mask=mask_x, other=0)
            if BLOCK_T == 1:
                bits = (packed >> t) & 1
            else:
                shifts_x = shifts.to(packed.dtype)[:, None, None]
                bits = (packed[None, :, :] >> shifts_x) & 1
            if ADDED:
                packed = tl.load(added + offset_x, mask=mask_x, other=0)
                if BLOCK_T == 1:
                    bits += (packed >> t) & 1
                else:
                    bits += (packed[None, :, :] >> shifts_x) & 1
            spikes = tl.reshape(bits.to(tl.float16), (BLOCK_T * BLOCK_M, BLOCK_K))
            weights = tl.load(high + offset_w, mask=mask_w, other=0.0)
            accumulator = tl.dot(spikes, weights, accumulator)
            if not HALF:
                weights = tl.load(low + offset_w, mask=mask_w, other=0.0)
                accumulator = tl.dot(spikes, weights, accumulator)
    return accumulator


@triton.jit
def _patch(
    patch, height, width, patches_h, patches_w,
    WHOLE_H: tl.constexpr, WHOLE_W: tl.constexpr, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr,
):  # fmt: skip
    """Return sample, first row and first column of a patch of BLOCK_M // PATCH_W rows.

    Pooled pixels that a patch computes need the rows and columns beside it: patches overlap by two
    of each, unless one holds the WHOLE height or width. First rows and columns are even.
    """
    sample = patch // (patches_h * patches_w)
    row = patch // patches_w % patches_h * 0
    column = row
    if not WHOLE_H:
        row = patch // patches_w % patches_h * (BLOCK_M // PATCH_W - 2) - 2
    if not WHOLE_W:
        column = patch % patches_w * (PATCH_W - 2) - 2
    return sample, row, column


@triton.jit
def _store_pooled(
    fired, packed, sample, first_row, first_column, n, height, width, filters,
    WHOLE_H: tl.constexpr, WHOLE_W: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PATCH_W: tl.constexpr,
):  # fmt: skip
    """Max-pool a patch's packed spikes [BLOCK_M, BLOCK_N] as `pool` does, and store the pixels
    whose windows it holds."""
    index = tl.arange(0, BLOCK_M // 4)
    row = index // (PATCH_W // 2)
    column = index % (PATCH_W // 2)
    pooled = tl.zeros((BLOCK_M // 4, BLOCK_N), packed.dtype)
    for tap in tl.static_range(9):
        tap_row = 2 * row + (tap // 3 - 1)
        tap_column = 2 * column + (tap % 3 - 1)
        inside = (tap_row >= 0) & (tap_column >= 0)
        source = tl.where(inside, tap_row * PATCH_W + tap_column, 0)
        source = tl.broadcast_to(source[:, None], (BLOCK_M // 4, BLOCK_N))
        pooled |= tl.where(inside[:, None], tl.gather(packed, source, 0), 0)
    pooled_height = (height + 1) // 2
    pooled_width = (width + 1) // 2
    pooled_row = first_row // 2 + row
    pooled_column = first_column // 2 + column
    mask = (pooled_row < pooled_height) & (pooled_column < pooled_width)
    if not WHOLE_H:
        mask = mask & (row > 0)
    if not WHOLE_W:
        mask = mask & (column > 0)
    pixel = (sample.to(tl.int64) * pooled_height + pooled_row) * pooled_width + pooled_column
    tl.store(
        fired + pixel[:, None] * filters + n[None, :], pooled.to(fired.dtype.element_ty),
        mask=mask[:, None] & (n < filters)[None, :],
    )  # fmt: skip


@triton.jit(do_not_specialize=["steps"])
def fire(
    x, added, high, low, unit, shift, fired,
    pixels, height, width, channels, filters, steps, patches_h, patches_w,
    DECAY: tl.constexpr, SIDE: tl.constexpr, VALUES: tl.constexpr, HALF: tl.constexpr,
    HELD: tl.constexpr, ADDED: tl.constexpr, WIDE: tl.constexpr, FLAT: tl.constexpr,
    WHOLE_H: tl.constexpr, WHOLE_W: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PATCH_W: tl.constexpr,
):  # fmt: skip
    """A layer: one program computes pixels m = (b, y, x) and filters n over all steps.

    unit, shift: [filters]; fired: packed spikes [pixels, filters]. With HELD, x has one step, and
    BLOCK_T is 1. With PATCH_W, pixels are those of a patch of that width, and fired is pooled.
    """
    index = tl.arange(0, BLOCK_M)
    if PATCH_W:
        sample, first_row, first_column = _patch(
            tl.program_id(0), height, width, patches_h, patches_w, WHOLE_H, WHOLE_W, BLOCK_M,
            PATCH_W,
        )  # fmt: skip
        row = first_row + index // PATCH_W
        column = first_column + index % PATCH_W
        mask_m = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        m = (sample * height + row) * width + column
    else:
        m = tl.program_id(0) * BLOCK_M + index
        column = m % width
        row = (m // width) % height
        mask_m = m < pixels
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    scale = tl.load(unit + n, mask=n < filters, other=0.0)[None, :]
    offset = tl.load(shift + n, mask=n < filters, other=0.0)[None, :]
    potential = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    packed = tl.zeros((BLOCK_M, BLOCK_N), tl.int64 if WIDE else tl.int32)
    if HELD:
        first_step = _accumulate(
            x, added, high, low, m, row, column, mask_m, n, 0, 1, pixels, height, width, channels,
            filters, SIDE, VALUES, HALF, ADDED, FLAT, 1, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    for t in range(0, steps, BLOCK_T):
        if HELD:
            accumulator = first_step
        else:
            accumulator = _accumulate(
                x, added, high, low, m, row, column, mask_m, n, t, steps, pixels, height, width,
                channels, filters, SIDE, VALUES, HALF, ADDED, FLAT, BLOCK_T, BLOCK_M, BLOCK_N,
                BLOCK_K,
            )  # fmt: skip
        if BLOCK_T == 1:
            potential, spike = _charge(potential, accumulator * scale + offset, DECAY)
            packed |= spike.to(packed.dtype) << t
        else:
            by_step = tl.reshape(accumulator, (BLOCK_T, BLOCK_M, BLOCK_N))
            step = tl.arange(0, BLOCK_T)[:, None, None]
            for i in tl.static_range(BLOCK_T):
                of_step = tl.sum(tl.where(step == i, by_step, 0.0), axis=0)
                potential, spike = _charge(potential, of_step * scale + offset, DECAY)
                packed |= (spike & (t + i < steps)).to(packed.dtype) << (t + i)
    if PATCH_W:
        packed = tl.where(mask_m[:, None], packed, 0)
        _store_pooled(
            fired, packed, sample, first_row, first_column, n, height, width, filters, WHOLE_H,
            WHOLE_W, BLOCK_M, BLOCK_N, PATCH_W,
        )  # fmt: skip
    else:
        offset_out = m.to(tl.int64)[:, None] * filters + n[None, :]
        mask_out = mask_m[:, None] & (n < filters)[None, :]
        tl.store(fired + offset_out, packed.to(fired.dtype.element_ty), mask=mask_out)


@triton.jit
def pool(x, pooled, count, height, width, channels, BLOCK: tl.constexpr):
    """Max-pool 3x3, stride 2, padding 1: the "or" of packed spikes.

    x: [B, height, width, channels]; pooled: [B, H', W', channels], `count` in all.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = index % channels
    pixel = index // channels
    pooled_width = (width + 1) // 2
    pooled_height = (height + 1) // 2
    column = (pixel % pooled_width) * 2
    row = (pixel // pooled_width) % pooled_height * 2
    sample = pixel // pooled_width // pooled_height
    packed = tl.zeros((BLOCK,), x.dtype.element_ty)
    for tap in tl.static_range(9):
        tap_row = row + (tap // 3 - 1)
        tap_column = column + (tap % 3 - 1)
        mask = (index < count) & (tap_row >= 0) & (tap_row < height)
        mask = mask & (tap_column >= 0) & (tap_column < width)
        offset = ((sample * height + tap_row) * width + tap_column) * channels + c
        packed |= tl.load(x + offset, mask=mask, other=0)
    tl.store(pooled + index, packed, mask=index < count)


@triton.jit(do_not_specialize=["steps"])
def unpack(
    x, added, residual, values, count, steps, alpha,
    ADDED: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Packed spikes [count] to values [T, count]; those of `added` are added where ADDED, and alpha
    times those of `residual` where RESIDUAL."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    packed = tl.load(x + index, mask=mask, other=0)
    if ADDED:
        packed_added = tl.load(added + index, mask=mask, other=0)
    if RESIDUAL:
        packed_residual = tl.load(residual + index, mask=mask, other=0)
    offset = index
    for t in range(steps):
        bits = (packed >> t) & 1
        if ADDED:
            bits += (packed_added >> t) & 1
        value = bits.to(tl.float32)
        if RESIDUAL:
            value += ((packed_residual >> t) & 1).to(tl.float32) * alpha
        tl.store(values + offset, value, mask=mask)
        offset += count


@triton.jit(do_not_specialize=["steps"])
def complement(
    spatial, temporal, values, batch, tokens, channels, steps,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The mean of `spatial` over tokens times the mean of `temporal` over steps: one program
    computes BLOCK_D channels of a sample at a step t.

    spatial, temporal: packed spikes [batch, tokens, channels]; values: [T, batch, tokens,
    channels].
    """
    sample = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    t = tl.program_id(2)
    count = tl.zeros((BLOCK_D,), tl.int32)  # of spikes over tokens
    for first in range(0, tokens, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        mask = (m < tokens)[:, None] & (d < channels)[None, :]
        offset = (sample * tokens + m)[:, None] * channels + d[None, :]
        packed = tl.load(spatial + offset, mask=mask, other=0)
        count += tl.sum(((packed >> t) & 1).to(tl.int32), axis=0)
    over_tokens = count.to(tl.float32) / tokens
    for first in range(0, tokens, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        mask = (m < tokens)[:, None] & (d < channels)[None, :]
        offset = (sample * tokens + m)[:, None] * channels + d[None, :]
        packed = tl.load(temporal + offset, mask=mask, other=0)
        fired = tl.zeros((BLOCK_M, BLOCK_D), tl.int32)  # over steps
        for s in range(steps):
            fired += ((packed >> s) & 1).to(tl.int32)
        product = over_tokens[None, :] * (fired.to(tl.float32) / steps)
        step_offset = (t * batch).to(tl.int64) * tokens * channels
        tl.store(values + step_offset + offset, product, mask=mask)


@triton.jit(do_not_specialize=["steps"])
def summarize(
    pooled, position, residual, spikes, head, features, rate, residual_mean, logits,
    batch, tokens, channels, classes, stride_class, stride_channel, steps, alpha,
    RESIDUAL: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Means over tokens and steps of a stream, and its logits: one program computes a sample.

    pooled, position, residual, spikes: packed [batch, tokens, channels]; head: [classes, channels]
    with strides; features: [batch, channels]; rate: [batch]; residual_mean: [T, batch, channels];
    logits: [batch, classes]. Counts are integers, so the order of sums changes no mean.
    """
    sample = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    token_spikes = 0
    result = tl.zeros((BLOCK_N,), tl.float32)
    for first_d in range(0, channels, BLOCK_D):
        d = first_d + tl.arange(0, BLOCK_D)
        of_tokens = tl.zeros((BLOCK_D,), tl.int32)
        of_spikes = tl.zeros((BLOCK_D,), tl.int32)
        of_residual = tl.zeros((BLOCK_D,), tl.int32)
        for t in range(steps):
            at_step = tl.zeros((BLOCK_D,), tl.int32)
            for first in range(0, tokens, BLOCK_M):
                m = first + tl.arange(0, BLOCK_M)
                mask = (m < tokens)[:, None] & (d < channels)[None, :]
                offset = (sample * tokens + m)[:, None] * channels + d[None, :]
                one = (tl.load(pooled + offset, mask=mask, other=0) >> t) & 1
                two = (tl.load(position + offset, mask=mask, other=0) >> t) & 1
                of_tokens += tl.sum(one.to(tl.int32) + two.to(tl.int32), axis=0)
                added = (tl.load(spikes + offset, mask=mask, other=0) >> t) & 1
                of_spikes += tl.sum(added.to(tl.int32), axis=0)
                if RESIDUAL:
                    bits = (tl.load(residual + offset, mask=mask, other=0) >> t) & 1
                    at_step += tl.sum(bits.to(tl.int32), axis=0)
            if RESIDUAL:
                offset_mean = (t * batch + sample) * channels + d
                mean = at_step.to(tl.float32) / tokens
                tl.store(residual_mean + offset_mean, mean, mask=d < channels)
                of_residual += at_step
        total = (of_tokens + of_spikes).to(tl.float32)
        if RESIDUAL:
            total += of_residual.to(tl.float32) * alpha
        feature = total / (tokens * steps)
        tl.store(features + sample * channels + d, feature, mask=d < channels)
        token_spikes += tl.sum(of_tokens, axis=0)
        if HEAD:
            mask_head = (d < channels)[:, None] & (n < classes)[None, :]
            offset_head = d[:, None] * stride_channel + n[None, :] * stride_class
            weights = tl.load(head + offset_head, mask=mask_head, other=0.0)
            result += tl.sum(feature[:, None] * weights, axis=0)
    # A token is the sum of two spikes.
    tl.store(rate + sample, token_spikes.to(tl.float32) / (tokens * steps) / channels / 2)
    if HEAD:
        tl.store(logits + sample * classes + n, result, mask=n < classes)


@triton.jit(do_not_specialize=["steps"])
def attend_over_tokens(
    q, k, v, fired, targets, sources, heads, width, stride_q, stride_k, stride_v, scale, steps,
    DECAY: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """scale q (k^T v): one program computes BLOCK_M target tokens of one sample and head.

    q, fired: [B, targets, heads, width]; k, v: [B, sources, heads, width]; strides from token to
    token. BLOCK_D >= width.
    """
    sample = (tl.program_id(0) // heads).to(tl.int64)
    head = tl.program_id(0) % heads
    d = tl.arange(0, BLOCK_D)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask_q = (m < targets)[:, None] & (d < width)[None, :]
    row_q = sample * targets + m
    q_packed = tl.load(
        q + row_q[:, None] * stride_q + head * width + d[None, :], mask=mask_q, other=0
    )  # [BLOCK_M, BLOCK_D]
    potential = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    packed = tl.zeros((BLOCK_M, BLOCK_D), tl.int64 if WIDE else tl.int32)
    for t in range(steps):
        kv = tl.zeros((BLOCK_D, BLOCK_D), tl.float32)  # k^T v
        for first in range(0, sources, BLOCK_M):
            s = first + tl.arange(0, BLOCK_M)
            mask_kv = (s < sources)[:, None] & (d < width)[None, :]
            row_kv = sample * sources + s
            k_packed = tl.load(
                k + row_kv[:, None] * stride_k + head * width + d[None, :], mask=mask_kv, other=0
            )  # fmt: skip
            v_packed = tl.load(
                v + row_kv[:, None] * stride_v + head * width + d[None, :], mask=mask_kv, other=0
            )  # fmt: skip
            k_t = ((k_packed >> t) & 1).to(tl.float16)
            v_t = ((v_packed >> t) & 1).to(tl.float16)
            kv = tl.dot(tl.trans(k_t), v_t, kv)
        # kv counts up to N tokens, which float16 does not hold.
        q_t = ((q_packed >> t) & 1).to(tl.float32)
        accumulator = tl.dot(q_t, kv, input_precision="ieee")
        potential, spike = _charge(potential, accumulator * scale, DECAY)
        packed |= spike.to(packed.dtype) << t
    offset_out = row_q[:, None] * (heads * width) + head * width + d[None, :]
    tl.store(fired + offset_out, packed.to(fired.dtype.element_ty), mask=mask_q)


@triton.jit(do_not_specialize=["steps"])
def attend_over_steps(
    q, k, v, fired, count, heads, width, stride_q, stride_k, stride_v, scale, steps,
    DECAY: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """scale (q k^T) v over steps: one program computes BLOCK_M pairs of a token and a head.

    q, k, v, fired: [B * N, heads, width], `count` = B N heads pairs m; strides from token to
    token. BLOCK_D >= width.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = (m // heads).to(tl.int64)
    head_out = m % heads
    d = tl.arange(0, BLOCK_D)
    mask = (m < count)[:, None] & (d < width)[None, :]
    potential = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    packed = tl.zeros((BLOCK_M, BLOCK_D), tl.int64 if WIDE else tl.int32)
    for t in range(steps):
        # The published reshape mixes heads and steps: the output of (t, head_out) is entry
        # t heads + head_out of the flattened (heads, steps).
        mixed = t * heads + head_out
        head, step = mixed // steps, mixed % steps
        channel = (head * width)[:, None] + d[None, :]
        q_packed = tl.load(q + token[:, None] * stride_q + channel, mask=mask, other=0)
        k_packed = tl.load(k + token[:, None] * stride_k + channel, mask=mask, other=0)
        v_packed = tl.load(v + token[:, None] * stride_v + channel, mask=mask, other=0)
        q_t = (q_packed >> step[:, None]) & 1
        accumulator = tl.zeros((BLOCK_M, BLOCK_D), tl.int32)
        for s in range(steps):
            weight = tl.sum((q_t & (k_packed >> s)).to(tl.int32), axis=1)  # q k^T: [BLOCK_M]
            accumulator += weight[:, None] * ((v_packed >> s) & 1).to(tl.int32)
        potential, spike = _charge(potential, accumulator.to(tl.float32) * scale, DECAY)
        packed |= spike.to(packed.dtype) << t
    offset_out = token[:, None] * (heads * width) + head_out[:, None] * width + d[None, :]
    tl.store(fired + offset_out, packed.to(fired.dtype.element_ty), mask=mask)
