// layer_norm, gelu, add, casts, column sums and linear of few rows: bound by memory, so each array is moved once.
//
// W is how many elements one access moves: those of 16 bytes, or 1 where they are not aligned. layers.py launches all.

#include "common.cuh"

// ----- layer_norm -------------------------------------------------------------------------------------------------
//
// y = (x - mean) rstd weight + bias, with rstd = 1 / sqrt(var + eps); mean and rstd (rows) are written, too.
// The variance is that of the centered values x - mean, minus the square of their own mean `rest`, which would be 0
// without rounding: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983. y is corrected by
// `rest` in the same way.
//
// With z = (x - mean) rstd and h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum over rows of g z,
// dbias = sum of g. A block adds up some of the rows, and writes these two sums as one row of partial (groups, 2 C).
// dx or partial may be null.
//
// A row of C elements is computed by a team of `warps` warps: by the whole block, or by one of its warps where one is
// enough. A thread holds up to V elements of the row in vectors of W elements (16 bytes), one team's width apart.

__device__ __forceinline__ float team_sum(float x, int warps) { return warps == 1 ? warp_sum(x) : block_sum(x); }

__device__ __forceinline__ float rstd_of(float squares, float rest, float eps) {
    float var = squares - rest * rest;
    if (var < 0.0f) var = 0.0f;  // fmaxf would turn nan into 0
    return 1.0f / sqrtf(var + eps);
}

template <typename T, typename P, int V>
__global__ void __launch_bounds__(256)
layer_norm(const T* x, const P* weight, const P* bias, T* out, float* mean, float* rstd, long long rows,
           long long C, long long warps, float eps) {
    constexpr int W = WIDTH<T>;
    int team = warps * 32, n = C, first = threadIdx.x % team * W, step = team * W;
    long long row = blockIdx.x * static_cast<long long>(blockDim.x / team) + threadIdx.x / team;
    if (row >= rows) return;  // a whole team
    x += row * C;
    out += row * C;

    float v[V / W][W], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < V / W; k++) {
        if (first + k * step >= n) continue;
        load<W>(x + first + k * step, v[k]);
#pragma unroll
        for (int i = 0; i < W; i++) sum += v[k][i];
    }
    float m = team_sum(sum, warps) / n, rest = 0.0f, squares = 0.0f;
#pragma unroll
    for (int k = 0; k < V / W; k++) {
        if (first + k * step >= n) continue;
#pragma unroll
        for (int i = 0; i < W; i++) {
            v[k][i] -= m;
            rest += v[k][i];
            squares += v[k][i] * v[k][i];
        }
    }
    rest = team_sum(rest, warps) / n;
    float r = rstd_of(team_sum(squares, warps) / n, rest, eps);
#pragma unroll
    for (int k = 0; k < V / W; k++) {
        int c = first + k * step;
        if (c >= n) continue;
        float scale[W], shift[W];
        if (weight) load<W>(weight + c, scale);
        if (bias) load<W>(bias + c, shift);
#pragma unroll
        for (int i = 0; i < W; i++) {
            float y = (v[k][i] - rest) * r;
            if (weight) y *= scale[i];
            if (bias) y += shift[i];
            v[k][i] = y;
        }
        store<W>(out + c, v[k]);
    }
    if (threadIdx.x % team == 0) {
        mean[row] = m + rest;
        rstd[row] = r;
    }
}

// Reads g and x twice, the second time from the cache, so that registers can hold the sums of a thread's columns.
template <typename T, int V>
__global__ void __launch_bounds__(256, 1)  // the 1 lets ptxas use more than 128 registers; without it, it spills
layer_norm_vjp(const T* g, const T* x, const float* weight, const float* mean, const float* rstd, T* dx,
               float* partial, long long rows, long long C, long long warps) {
    constexpr int W = WIDTH<T>;
    __shared__ float sums[2][32 * V];  // dweight and dbias of the teams so far
    int team = warps * 32, n = C, teams = blockDim.x / team, own = threadIdx.x / team;
    int first = threadIdx.x % team * W, step = team * W;
    float dweight[V / W][W] = {}, dbias[V / W][W] = {};

    for (long long row = blockIdx.x * static_cast<long long>(teams) + own; row < rows;
         row += static_cast<long long>(gridDim.x) * teams) {
        const T *g_row = g + row * C, *x_row = x + row * C;
        float m = mean[row], r = rstd[row], sum_h = 0.0f, sum_hz = 0.0f;
#pragma unroll
        for (int k = 0; k < V / W; k++) {
            int c = first + k * step;
            if (c >= n) continue;
            float gs[W], xs[W], scale[W];
            load<W>(g_row + c, gs);
            load<W>(x_row + c, xs);
            if (weight) load<W>(weight + c, scale);
#pragma unroll
            for (int i = 0; i < W; i++) {
                float z = (xs[i] - m) * r, h = weight ? gs[i] * scale[i] : gs[i];
                dweight[k][i] += gs[i] * z;
                dbias[k][i] += gs[i];
                sum_h += h;
                sum_hz += h * z;
            }
        }
        if (!dx) continue;
        sum_h = team_sum(sum_h, warps) / n;
        sum_hz = team_sum(sum_hz, warps) / n;
        g_row = again(g_row);
        x_row = again(x_row);
#pragma unroll
        for (int k = 0; k < V / W; k++) {
            int c = first + k * step;
            if (c >= n) continue;
            float gs[W], xs[W], scale[W];
            load<W>(g_row + c, gs);
            load<W>(x_row + c, xs);
            if (weight) load<W>(weight + c, scale);
#pragma unroll
            for (int i = 0; i < W; i++) {
                float z = (xs[i] - m) * r, h = weight ? gs[i] * scale[i] : gs[i];
                xs[i] = (h - sum_h - z * sum_hz) * r;
            }
            store<W>(dx + row * C + c, xs);
        }
    }
    if (!partial) return;
    partial += blockIdx.x * 2 * C;
    for (int turn = 0; turn < teams; turn++) {  // one team after another adds its own: a fixed order
        if (turn == own) {
#pragma unroll
            for (int k = 0; k < V / W; k++) {
                int c = first + k * step;
                if (c >= n) continue;
                if (turn > 0) {
#pragma unroll
                    for (int i = 0; i < W; i++) {
                        dweight[k][i] += sums[0][c + i];
                        dbias[k][i] += sums[1][c + i];
                    }
                }
                bool last = turn == teams - 1;
                store<W>(last ? partial + c : &sums[0][c], dweight[k]);
                store<W>(last ? partial + C + c : &sums[1][c], dbias[k]);
            }
        }
        __syncthreads();
    }
}

// The same for rows that are not aligned to 16 bytes, or longer than registers hold: element by element; values needed
// twice are read twice. partial has a row for each team.
template <typename T, typename P>
__global__ void __launch_bounds__(256)
layer_norm_any(const T* x, const P* weight, const P* bias, T* out, float* mean, float* rstd, long long rows,
               long long C, long long warps, float eps) {
    int team = warps * 32, first = threadIdx.x % team;
    long long row = blockIdx.x * static_cast<long long>(blockDim.x / team) + threadIdx.x / team;
    if (row >= rows) return;
    x += row * C;
    out += row * C;
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
    for (long long c = first; c < C; c += team) sum += to_float(x[c]);
    float m = team_sum(sum, warps) / C;
    for (long long c = first; c < C; c += team) {
        float v = to_float(x[c]) - m;
        rest += v;
        squares += v * v;
    }
    rest = team_sum(rest, warps) / C;
    float r = rstd_of(team_sum(squares, warps) / C, rest, eps);
    for (long long c = first; c < C; c += team) {
        float y = (to_float(x[c]) - m - rest) * r;
        if (weight) y *= to_float(weight[c]);
        if (bias) y += to_float(bias[c]);
        out[c] = from_float<T>(y);
    }
    if (first == 0) {
        mean[row] = m + rest;
        rstd[row] = r;
    }
}

template <typename T>
__global__ void __launch_bounds__(256)
layer_norm_vjp_any(const T* g, const T* x, const float* weight, const float* mean, const float* rstd, T* dx,
                   float* partial, long long rows, long long C, long long warps) {
    int team = warps * 32, first = threadIdx.x % team, teams = blockDim.x / team;
    long long group = blockIdx.x * static_cast<long long>(teams) + threadIdx.x / team;
    float* own = partial ? partial + group * 2 * C : nullptr;
    if (own)
        for (long long c = first; c < C; c += team) own[c] = own[C + c] = 0.0f;  // a thread always has the same columns
    for (long long row = group; row < rows; row += static_cast<long long>(gridDim.x) * teams) {
        const T *g_row = g + row * C, *x_row = x + row * C;
        float m = mean[row], r = rstd[row], sum_h = 0.0f, sum_hz = 0.0f;
        for (long long c = first; c < C; c += team) {
            float d = to_float(g_row[c]), z = (to_float(x_row[c]) - m) * r, h = weight ? d * weight[c] : d;
            sum_h += h;
            sum_hz += h * z;
            if (!own) continue;
            own[c] += d * z;
            own[C + c] += d;
        }
        if (!dx) continue;
        sum_h = team_sum(sum_h, warps) / C;
        sum_hz = team_sum(sum_hz, warps) / C;
        for (long long c = first; c < C; c += team) {
            float d = to_float(g_row[c]), z = (to_float(x_row[c]) - m) * r, h = weight ? d * weight[c] : d;
            dx[row * C + c] = from_float<T>((h - sum_h - z * sum_hz) * r);
        }
    }
}

// ----- sums over rows ---------------------------------------------------------------------------------------------

constexpr int SUM_WARPS = 8;

// partial[group, c] = sum of x[row, c] over the rows of the group, x (rows, C). Block (tile, group) sums 32 W columns.
template <typename T, int W>
__global__ void __launch_bounds__(32 * SUM_WARPS)
column_sums(const T* x, float* partial, long long rows, long long C) {
    __shared__ float sums[SUM_WARPS][32 * W];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long c = (blockIdx.x * 32ll + lane) * W;
    float sum[W] = {};
    if (c < C) {
#pragma unroll 4
        for (long long row = blockIdx.y * SUM_WARPS + warp; row < rows; row += gridDim.y * SUM_WARPS) {
            float v[W];
            load<W>(x + row * C + c, v);
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < W; i++) sums[warp][lane * W + i] = sum[i];
    __syncthreads();
    c = blockIdx.x * 32ll * W + threadIdx.x;
    if (threadIdx.x >= 32 * W || c >= C) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < SUM_WARPS; w++) total += sums[w][threadIdx.x];
    partial[blockIdx.y * C + c] = total;
}

// The sum over the rows of partial (groups, columns): the first C columns go to a, the others to b. Either may be null.
__global__ void __launch_bounds__(512)
sum_groups(const float* partial, float* a, float* b, long long groups, long long columns, long long C) {
    __shared__ float sums[16][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long c = blockIdx.x * 32ll + lane;
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 8
        for (long long group = warp; group < groups; group += 16) sum += partial[group * columns + c];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    float* out = c < C ? a : b;
    if (warp || c >= columns || !out) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < 16; w++) total += sums[w][lane];
    out[c < C ? c : c - C] = total;
}

// ----- elementwise ------------------------------------------------------------------------------------------------
//
// Each thread moves W neighbouring elements; those at the end of the array that do not fill W go one by one.

template <int W, typename T>
__device__ __forceinline__ void load_part(const T* p, long long i, long long n, float (&x)[W]) {
    if (i + W <= n) return load<W>(p + i, x);
#pragma unroll
    for (int k = 0; k < W; k++) x[k] = i + k < n ? to_float(p[i + k]) : 0.0f;
}

template <int W, typename T>
__device__ __forceinline__ void store_part(T* p, long long i, long long n, const float (&x)[W]) {
    if (i + W <= n) return store<W>(p + i, x);
#pragma unroll
    for (int k = 0; k < W; k++)
        if (i + k < n) p[i + k] = from_float<T>(x[k]);
}

// gelu(x) = x s, with s = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3). The second form
// of s has no cancellation where tanh is near -1. gelu'(x) = s + x s (1 - s) 2 du/dx.
constexpr float GELU_A = 0.7978845608028654f, GELU_C = 0.044715f;

__device__ __forceinline__ float gelu_share(float x) {
    return 1.0f / (1.0f + expf(-2.0f * GELU_A * x * (1.0f + GELU_C * x * x)));
}

template <typename T, int W>
__global__ void __launch_bounds__(256) gelu(const T* x, T* out, long long n) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * W;
    if (i >= n) return;
    float v[W];
    load_part<W>(x, i, n, v);
#pragma unroll
    for (int k = 0; k < W; k++) v[k] *= gelu_share(v[k]);
    store_part<W>(out, i, n, v);
}

template <typename T, int W>
__global__ void __launch_bounds__(256) gelu_vjp(const T* g, const T* x, T* dx, long long n) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * W;
    if (i >= n) return;
    float gs[W], v[W];
    load_part<W>(g, i, n, gs);
    load_part<W>(x, i, n, v);
#pragma unroll
    for (int k = 0; k < W; k++) {
        float s = gelu_share(v[k]);
        float t = fminf(fmaxf(v[k], -16.0f), 16.0f);  // beyond, s (1 - s) is 0, and 0 times infinity would be nan
        v[k] = gs[k] * (s + t * s * (1.0f - s) * (2.0f * GELU_A) * (1.0f + 3.0f * GELU_C * t * t));
    }
    store_part<W>(dx, i, n, v);
}

// out = x in another dtype, rounded to nearest.
template <typename From, typename To, int W>
__global__ void __launch_bounds__(256) cast(const From* x, To* out, long long n) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * W;
    if (i >= n) return;
    float v[W];
    load_part<W>(x, i, n, v);
    store_part<W>(out, i, n, v);
}

// ----- add --------------------------------------------------------------------------------------------------------

// out = x + y; out may be x.
template <typename T, int W>
__global__ void __launch_bounds__(256) add(const T* x, const T* y, T* out, long long n) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * W;
    if (i >= n) return;
    float a[W], b[W];
    load_part<W>(x, i, n, a);
    load_part<W>(y, i, n, b);
#pragma unroll
    for (int k = 0; k < W; k++) a[k] += b[k];
    store_part<W>(out, i, n, a);
}

// ----- linear of few rows -----------------------------------------------------------------------------------------

// y (n, O) = x (n, C) w^T + bias, w (O, C), for n <= M rows, in the time that reading w takes. One warp for each row of
// w.
template <typename T, int W, int M>
__global__ void __launch_bounds__(256) few_rows(
    const T* x, const T* w, const T* bias, T* y, long long n, long long O, long long C) {
    long long o = blockIdx.x * 8ll + threadIdx.x / 32;
    if (o >= O) return;
    float sums[M] = {};
    const T* row = w + o * C;
#pragma unroll 4
    for (long long c = threadIdx.x % 32 * W; c < C; c += 32 * W) {
        float ws[W];
        load<W>(row + c, ws);
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (m >= n) break;
            float xs[W];
            load<W>(x + m * C + c, xs);
#pragma unroll
            for (int k = 0; k < W; k++) sums[m] += ws[k] * xs[k];
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        float sum = warp_sum(sums[m]);
        if (m < n && threadIdx.x % 32 == 0) y[m * O + o] = from_float<T>(sum + (bias ? to_float(bias[o]) : 0.0f));
    }
}
