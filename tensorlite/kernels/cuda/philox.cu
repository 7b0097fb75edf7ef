// Counter-based random numbers: Philox4x32-10. Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1,
// 2, 3", 2011. Draw number i of a stream is a function of the seed and of i alone, so each thread can compute its own.

#include "common.cuh"

// Replaces the counter x, 128 bits, with four draws of 32 bits, under a key of 64 bits: ten rounds.
__device__ __forceinline__ void philox(unsigned (&x)[4], unsigned key0, unsigned key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(0xD2511F53u, x[0]), low0 = 0xD2511F53u * x[0];
        unsigned high1 = __umulhi(0xCD9E8D57u, x[2]), low1 = 0xCD9E8D57u * x[2];
        x[0] = high1 ^ x[1] ^ key0;
        x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1;
        x[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

// keep[4 i + k] = whether draw k at counter state[1] + i, with the seed state[0] as key, is below `limit` (out of
// 2^32).
__global__ void keep_mask(const unsigned long long* state, bool* keep, long long size, long long limit) {
    unsigned long long seed = state[0], i = blockIdx.x * static_cast<unsigned long long>(blockDim.x) + threadIdx.x;
    unsigned long long counter = state[1] + i;
    if (4 * i >= size) return;
    unsigned x[4] = {static_cast<unsigned>(counter), static_cast<unsigned>(counter >> 32), 0u, 0u};
    philox(x, static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32));
    if (4 * i + 4 <= size) {
        Pack<bool, 4> four;
#pragma unroll
        for (int k = 0; k < 4; k++) four.element[k] = x[k] < limit;
        *const_cast<Pack<bool, 4>*>(pack_at<bool, 4>(keep + 4 * i)) = four;
    } else {
#pragma unroll
        for (int k = 0; k < 3; k++)
            if (4 * i + k < size) keep[4 * i + k] = x[k] < limit;
    }
}

// Moves the counter of the stream on. One thread.
__global__ void take(unsigned long long* state, long long counters) { state[1] += counters; }

// out = x gain where `keep`, otherwise 0. `size` is a multiple of n, the elements of a thread.
template <typename T, int n>
__global__ void apply_dropout_mask(const T* x, const bool* keep, T* out, long long size, float gain) {
    long long i = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) * n;
    if (i >= size) return;
    float values[n];
    load<n>(x + i, values);
    Pack<bool, n> kept = *pack_at<bool, n>(keep + i);
#pragma unroll
    for (int k = 0; k < n; k++) values[k] = kept.element[k] ? values[k] * gain : 0.0f;
    store<n>(out + i, values);
}

// out (N, 4) = the draws for counters (N, 4) and keys (N, 2); tests compare them with published answers.
__global__ void philox_of(const unsigned* counters, const unsigned* keys, unsigned* out, long long N) {
    long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= N) return;
    unsigned x[4];
    for (int k = 0; k < 4; k++) x[k] = counters[4 * i + k];
    philox(x, keys[2 * i], keys[2 * i + 1]);
    for (int k = 0; k < 4; k++) out[4 * i + k] = x[k];
}
