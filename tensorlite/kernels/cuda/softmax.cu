// The softmax of attention over the rows of scores x (B, H, T, S), in place, where cuDNN does not compute all of it:
//
//     w_j = exp(z_j) / sum_k exp(z_k),   z_j = scale x_j + mask_j, -inf where position t may not see j
//     dx_j = scale w_j (dw_j - sum_k dw_k w_k)
//
// One block for each row; a thread reads n elements at once. A row that may see nothing becomes 0. With dropout,
// weights where `keep` is true are multiplied by `gain` and the others are 0; dw is then the gradient of these weights.

#include "exponentials.cuh"

// The strides, in elements, of a mask that is broadcast to (B, H, T, S): each may be 0.
struct Strides {
    long long b, h, t, s;
};

// z for the n elements from j on; it is -inf from `end` on, which the query does not see.
template <int n, typename T, typename Mask>
__device__ __forceinline__ void exponents(
    const T* x, const Mask* mask, long long stride, int j, int end, float scale, float (&z)[n]) {
    load<n>(x + j, z);
#pragma unroll
    for (int i = 0; i < n; i++) {
        z[i] *= scale;
        if (j + i >= end) {
            z[i] = -infinity();
        } else if (mask) {
            if constexpr (sizeof(Mask) == 1) {
                z[i] = mask[(j + i) * stride] ? z[i] : -infinity();
            } else {
                z[i] += to_float(mask[(j + i) * stride]);
            }
        }
    }
}

// Overwrites scores with weights, and writes the weights after dropout to `dropped`, unless `keep` and `dropped` are
// null. n divides S.
template <typename T, typename Mask, int n>
__global__ void __launch_bounds__(256) masked_softmax(
    T* scores, const Mask* mask, Strides strides, const bool* keep, T* dropped, long long heads, long long T_,
    long long S, long long causal, float scale, float gain) {
    long long row = blockIdx.x, t = row % T_;
    T* x = scores + row * S;
    if (mask) mask += row / T_ / heads * strides.b + row / T_ % heads * strides.h + t * strides.t;
    long long seen = S - T_ + t + 1;  // query t, the t-th of the last T of S positions, sees so many
    int end = causal && seen < S ? (seen > 0 ? seen : 0) : S;
    Sum mine = {-infinity(), 0.0f};
    for (int j = threadIdx.x * n; j < end; j += blockDim.x * n) {
        float z[n];
        exponents<n>(x, mask, strides.s, j, end, scale, z);
        include(mine, z);
    }
    Sum sum = sum_of_block(mine);
    float shift = shift_of(sum.top), factor = sum.total == 0.0f ? 0.0f : 1.0f / sum.total;
    for (int j = threadIdx.x * n; j < S; j += blockDim.x * n) {
        float w[n] = {};
        if (j < end) {
            exponents<n>(x, mask, strides.s, j, end, scale, w);
#pragma unroll
            for (int i = 0; i < n; i++) w[i] = exp_less(w[i], shift) * factor;
        }
        store<n>(x + j, w);
        if (keep) {
#pragma unroll
            for (int i = 0; i < n; i++) w[i] = keep[row * S + j + i] ? w[i] * gain : 0.0f;
            store<n>(dropped + row * S + j, w);
        }
    }
}

// Overwrites dweights (dw) with the gradient of the scores (dx).
template <typename T, int n>
__global__ void __launch_bounds__(256) masked_softmax_backward(
    T* dweights, const T* weights, const bool* keep, long long S, float scale, float gain) {
    long long row = blockIdx.x;
    T* d = dweights + row * S;
    const T* w = weights + row * S;
    float product = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        for (int j = threadIdx.x * n; j < S; j += blockDim.x * n) {
            float dw[n], p[n];
            load<n>(d + j, dw);
            load<n>(w + j, p);
#pragma unroll
            for (int i = 0; i < n; i++) {
                if (keep) dw[i] = keep[row * S + j + i] ? dw[i] * gain : 0.0f;
                if (pass == 0) product += dw[i] * p[i];
                dw[i] = scale * p[i] * (dw[i] - product);
            }
            if (pass == 1) store<n>(d + j, dw);
        }
        if (pass == 0) product = block_sum(product);
    }
}
