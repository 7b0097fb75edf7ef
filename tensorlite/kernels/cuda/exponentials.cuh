// The part that every softmax needs: the largest x and the sum of exp(x - largest), in one pass.

#pragma once
#include "common.cuh"

constexpr float LOG2E = 1.4426950408889634f;

// exp(x - shift), by base 2, for which the GPU has an instruction
__device__ __forceinline__ float exp_less(float x, float shift) { return exp2f((x - shift) * LOG2E); }

// What to subtract before exp: `top`, but 0 for -inf, because -inf - -inf is nan.
__device__ __forceinline__ float shift_of(float top) { return top == -infinity() ? 0.0f : top; }

struct Sum {
    float top, total;  // the largest x, and the sum of exp(x - top)
};

// Include n more values in a sum, which is rescaled when a larger value arrives.
template <int n> __device__ __forceinline__ void include(Sum& sum, const float (&x)[n]) {
    float top = sum.top;
#pragma unroll
    for (int i = 0; i < n; i++) top = fmaxf(top, x[i]);
    if (top > sum.top) {
        sum.total *= exp_less(sum.top, top);
        sum.top = top;
    }
    float shift = shift_of(sum.top);
#pragma unroll
    for (int i = 0; i < n; i++) sum.total += exp_less(x[i], shift);
}

// The sum over the values that all threads of the block have included. All threads must call it, and all get it.
__device__ __forceinline__ Sum sum_of_block(Sum mine) {
    float top = block_max(mine.top);
    return {top, block_sum(mine.total * exp_less(mine.top, shift_of(top)))};
}
