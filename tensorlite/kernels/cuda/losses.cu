// Cross-entropy. For a row x (V) of logits and its target t, with S = sum_j exp(x_j - top), top = max_j x_j:
//
//     loss = log(S) + top - x_t          d loss / d x_j = exp(x_j - top) / S - [j = t]
//
// One block for each row. Rows whose target is `ignore` have no loss and no gradient. The others are divided by
// `count`, the number of those rows (by 1 where it is null). The host does not check the targets: one that is not a
// class makes the loss and gradient of its row nan, and nothing outside the row is read. A thread reads n elements at
// once: WIDTH<T> of them, or 1 where rows are not aligned to 16 bytes.

#include "exponentials.cuh"

// The largest logit and the sum of exponentials of a row, in one pass over it. All threads get the result.
template <typename T, int n> __device__ __forceinline__ Sum sum_of_row(const T* x, int V) {
    Sum mine = {-infinity(), 0.0f};
    int packs = V / n;
#pragma unroll 4
    for (int k = threadIdx.x; k < packs; k += blockDim.x) {
        float values[n];
        load<n>(x + k * n, values);
        include(mine, values);
    }
    for (int j = packs * n + threadIdx.x; j < V; j += blockDim.x) {
        float value[1];
        load<1>(x + j, value);
        include(mine, value);
    }
    return sum_of_block(mine);
}

// out_j = scale (exp(x_j - top) / S - [j = t]); x and out may be the same row.
template <typename T, int n>
__device__ __forceinline__ void write_gradient(const T* x, T* out, int V, Sum sum, long long t, float scale) {
    float shift = shift_of(sum.top), factor = scale / sum.total;
    int packs = V / n, last = packs - 1 - threadIdx.x;
#pragma unroll 2
    for (int k = last; k >= 0; k -= blockDim.x) {  // from the end: what was read last is still in the cache
        float p[n];
        load<n>(x + k * n, p);
#pragma unroll
        for (int i = 0; i < n; i++) p[i] = exp_less(p[i], shift) * factor;
        if (t / n == k) {
#pragma unroll
            for (int i = 0; i < n; i++) p[i] -= t == k * n + i ? scale : 0.0f;
        }
        store<n>(out + k * n, p);
    }
    for (int j = packs * n + threadIdx.x; j < V; j += blockDim.x) {
        float p[1];
        load<1>(x + j, p);
        p[0] = exp_less(p[0], shift) * factor - (t == j ? scale : 0.0f);
        store<1>(out + j, p);
    }
}

template <typename T, int n> __device__ __forceinline__ void write_zeros(T* out, int length) {
    const float zeros[n] = {};
    int packs = length / n;
    for (int k = threadIdx.x; k < packs; k += blockDim.x) store<n>(out + k * n, zeros);
    for (int j = packs * n + threadIdx.x; j < length; j += blockDim.x) out[j] = from_float<T>(0.0f);
}

// Reads logits (N, V) and targets (N); writes losses, tops and totals (N).
template <typename T, typename Index, int n>
__global__ void __launch_bounds__(1024) cross_entropy_forward(
    const T* logits, const Index* targets, float* losses, float* tops, float* totals, long long V, long long ignore) {
    long long row = blockIdx.x, t = targets[row];
    const T* x = logits + row * V;
    if (t == ignore) {
        if (threadIdx.x == 0) losses[row] = tops[row] = totals[row] = 0.0f;
        return;
    }
    Sum sum = sum_of_row<T, n>(x, V);
    if (t < 0 || t >= V) sum.total = infinity() - infinity();
    if (threadIdx.x == 0) {
        tops[row] = sum.top;
        totals[row] = sum.total;
        losses[row] = sum.total == sum.total ? logf(sum.total) + (sum.top - to_float(x[t])) : sum.total;
    }
}

// Reads logits, what the forward kernel wrote, and g, the gradient by the loss; writes dlogits (N, V).
template <typename T, typename Index, int n>
__global__ void __launch_bounds__(1024) cross_entropy_backward(
    const T* logits, const Index* targets, const float* tops, const float* totals, const float* count, const float* g,
    T* dlogits, long long V, long long ignore) {
    long long row = blockIdx.x, t = targets[row];
    T* out = dlogits + row * V;
    if (t == ignore) return write_zeros<T, n>(out, V);
    float scale = count ? g[0] / count[0] : g[0];
    write_gradient<T, n>(logits + row * V, out, V, {tops[row], totals[row]}, t, scale);
}

// Loss and gradient at once: logits (N, padded), whose first V columns are classes, are overwritten with their gradient
// for g = 1, and with 0 in the other columns. Writes losses (N).
template <typename T, typename Index, int n>
__global__ void __launch_bounds__(1024) cross_entropy_in_place(
    T* logits, const Index* targets, float* losses, const float* count, long long V, long long padded,
    long long ignore) {
    long long row = blockIdx.x, t = targets[row];
    T* x = logits + row * padded;
    if (t == ignore) {
        if (threadIdx.x == 0) losses[row] = 0.0f;
        return write_zeros<T, n>(x, padded);
    }
    Sum sum = sum_of_row<T, n>(x, V);
    if (t < 0 || t >= V) sum.total = infinity() - infinity();
    if (threadIdx.x == 0)
        losses[row] = sum.total == sum.total ? logf(sum.total) + (sum.top - to_float(x[t])) : sum.total;
    __syncthreads();  // x[t] is read before it is overwritten
    write_gradient<T, n>(x, x, V, sum, t, count ? 1.0f / count[0] : 1.0f);
    for (int j = V + threadIdx.x; j < padded; j += blockDim.x) x[j] = from_float<T>(0.0f);
}

// count[0] = how many of the N targets are not `ignore`. One block.
template <typename Index>
__global__ void __launch_bounds__(1024) count_valid(const Index* targets, float* count, long long N, long long ignore) {
    int mine = 0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < N; i += blockDim.x) mine += targets[i] != ignore;
    float all = block_sum(mine);
    if (threadIdx.x == 0) count[0] = all;
}

// loss[0] = sum of losses (N), divided by count[0] where `count` is not null. One block.
__global__ void __launch_bounds__(1024) sum_losses(const float* losses, const float* count, float* loss, long long N) {
    double mine = 0.0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < N; i += blockDim.x) mine += losses[i];
    float all = block_sum(mine);
    if (threadIdx.x == 0) loss[0] = count ? all / count[0] : all;
}

// out = x (size) in another dtype, followed by zeros up to `padded` elements. Both sizes are multiples of n.
template <typename From, typename To, int n>
__global__ void pad(const From* x, To* out, long long size, long long padded) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * n;
    if (i >= padded) return;
    float values[n] = {};
    if (i < size) load<n>(x + i, values);
    store<n>(out + i, values);
}
