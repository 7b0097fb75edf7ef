// Attention of one new position of each text over those before it: what generation does token by token.
//
//     keys[b, h, p] = k[b, h],  values[b, h, p] = v[b, h],  p = places[b]
//     out[b, h] = sum_s w_s values[b, h, s],  w = softmax_s(scale q . keys[b, h, s]),  s = 0 .. p
//
// One block has a text's head. The place is read on the device, so that a recorded step serves every place.

#include "common.cuh"

constexpr int THREADS = 1024, PLACES = 4096;  // as decode.py has them; of a text at most, for they lie in shared memory

// Reads q, k, v: (B, H, D), heads side by side, texts `stride` elements apart; writes one place of keys and values
// (B, H, P, D), and out (B, H, D). D is a multiple of n, and at most THREADS.
template <typename T, int n>
__global__ void __launch_bounds__(THREADS) attend(
    const T* q, const T* k, const T* v, T* keys, T* values, const long long* places, T* out, long long H, long long P,
    long long D, long long stride, float scale) {
    __shared__ float weights[PLACES], question[THREADS], parts[THREADS];
    long long head = blockIdx.x, b = head / H, from = b * stride + head % H * D;
    long long last = places[b];
    T *own_keys = keys + head * P * D, *own_values = values + head * P * D;
    if (last < 0 || last >= P) {  // no such place: nan, and nothing written elsewhere
        for (int d = threadIdx.x; d < D; d += THREADS) out[head * D + d] = from_float<T>(infinity() - infinity());
        return;
    }
    for (int d = threadIdx.x; d < D; d += THREADS) {
        question[d] = to_float(q[from + d]) * scale;
        own_keys[last * D + d] = k[from + d];
        own_values[last * D + d] = v[from + d];
    }
    __syncthreads();

    float top = -infinity();  // a thread has a key, and reads all of it
    for (int s = threadIdx.x; s <= last; s += THREADS) {
        const T* key = own_keys + s * D;
        float score = 0.0f;
#pragma unroll 4
        for (int d = 0; d < D; d += n) {
            float x[n];
            load<n>(key + d, x);
#pragma unroll
            for (int i = 0; i < n; i++) score += x[i] * question[d + i];
        }
        weights[s] = score;
        top = fmaxf(top, score);
    }
    top = block_max(top);
    float sum = 0.0f;
    for (int s = threadIdx.x; s <= last; s += THREADS) sum += weights[s] = expf(weights[s] - top);
    sum = block_sum(sum);

    int groups = THREADS / D, group = threadIdx.x / D, d = threadIdx.x % D;  // a thread has a channel of some keys
    float mine = 0.0f;
    if (group < groups) {
#pragma unroll 8
        for (int s = group; s <= last; s += groups) mine += weights[s] * to_float(own_values[s * D + d]);
    }
    parts[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x < D) {
        for (int i = 1; i < groups; i++) mine += parts[i * D + d];
        out[head * D + d] = from_float<T>(mine / sum);
    }
}
