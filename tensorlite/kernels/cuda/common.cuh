// What the kernels share: bfloat16, loads and stores of 16 bytes, and sums over a warp or a block in a fixed order.
//
// Every kernel computes in float32, whatever the dtype of its arrays. For a CPU, the tests replace CUDA's own headers
// with an emulation and define TENSORLITE_EMULATED.

#pragma once
#ifndef TENSORLITE_EMULATED
#include <cuda_bf16.h>
#endif

using bf16 = __nv_bfloat16;

constexpr unsigned ALL = 0xffffffffu;  // the lanes of a warp

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// ----- dtypes -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }

// ----- 16 bytes at once -------------------------------------------------------------------------------------------

// How many elements of T one access of 16 bytes moves: float 4, bf16 8.
template <typename T> constexpr int WIDTH = 16 / sizeof(T);

// n elements that are moved by as few accesses as possible, each of at most 16 bytes. n * sizeof(T) is a power of two
// or a multiple of 16.
template <typename T, int n> struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
    T element[n];
};

template <typename T, int n> __device__ __forceinline__ const Pack<T, n>* pack_at(const T* p) {
#ifdef TENSORLITE_EMULATED
    return emulated_aligned<const Pack<T, n>>(p);
#else
    return reinterpret_cast<const Pack<T, n>*>(p);
#endif
}

// x[i] = p[i] for i in 0 .. n - 1. `p` is aligned to n elements, or to 16 bytes where they are more.
template <int n, typename T> __device__ __forceinline__ void load(const T* p, float (&x)[n]) {
    Pack<T, n> pack = *pack_at<T, n>(p);
#pragma unroll
    for (int i = 0; i < n; i++) x[i] = to_float(pack.element[i]);
}

// p[i] = x[i], rounded to T, for i in 0 .. n - 1. `p` is aligned as for `load`.
template <int n, typename T> __device__ __forceinline__ void store(T* p, const float (&x)[n]) {
    Pack<T, n> pack;
#pragma unroll
    for (int i = 0; i < n; i++) pack.element[i] = from_float<T>(x[i]);
    *const_cast<Pack<T, n>*>(pack_at<T, n>(p)) = pack;
}

// Returns p in a way that hides its value from the compiler, which then loads again instead of keeping values loaded
// earlier in registers.
template <typename T> __device__ __forceinline__ const T* again(const T* p) {
#ifndef TENSORLITE_EMULATED
    asm volatile("" : "+l"(p));
#endif
    return p;
}

// ----- sums over threads ------------------------------------------------------------------------------------------

// Each lane of a warp gets the sum, or the maximum, over all 32, always added in the same order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL, x, lanes);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, lanes));
    return x;
}

// The sum, or the maximum, over all threads of a block, a multiple of 32 up to 1024. All threads must call it, and all
// get the result. Its barriers also separate accesses to shared memory before the call from those after it.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_sum(x);
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    x = warp_sum(lane < blockDim.x / 32 ? sums[lane] : 0.0f);
    __syncthreads();  // before the next call writes
    return x;
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float tops[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_max(x);
    if (lane == 0) tops[warp] = x;
    __syncthreads();
    x = warp_max(lane < blockDim.x / 32 ? tops[lane] : -infinity());
    __syncthreads();
    return x;
}
