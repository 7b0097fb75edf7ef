// Adam's update of all parameters, the norm of all gradients, and the factor that clips them.
//
// One launch handles many arrays: a structure holds their addresses, and each block computes one chunk of one of them.
// What changes from step to step is read from the GPU's memory, so that a CUDA graph can be replayed. Where `scale`,
// the factor of the gradients, is not finite, the step is skipped: nothing changes, not even the number of steps.

#include "common.cuh"

constexpr int THREADS = 256, CHUNK = 16384;  // elements of a block

// `count` parameters with their moments and gradients: addresses and sizes. The blocks from first[i] on compute array
// i, CHUNK elements each.
struct Tensors {
    float *p[64], *m[64], *v[64];
    const float* g[64];
    long long size[64], first[64], count;
};

struct Gradients {
    const float* g[128];
    long long size[128], first[128], count;
};

template <typename Many> __device__ __forceinline__ int array_of_block(const Many& many) {
    int i = 0;
    while (i + 1 < many.count && many.first[i + 1] <= blockIdx.x) i++;
    return i;
}

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < infinity(); }

// The coefficients of a step in float32, computed in double as on a CPU.
struct Coefficients {
    float beta1, rest1, beta2, rest2;  // rest = 1 - beta
    float shrink, decay;               // factors of p: in the update (decoupled decay), or added to g (coupled)
    float eps, rate;                   // with the bias corrections of both moments
};

// The settings of an optimizer, as `adam` of optim.py takes them. A step writes to `step` only.
struct Control {
    double step, lr, weight_decay, beta1, beta2, eps;
};

// Increments the number of steps and computes the coefficients of the step. One thread.
__global__ void advance(Control* control, Coefficients* coefficients, const float* scale, long long decoupled) {
    if (scale && !is_finite(*scale)) return;
    Control c = *control;
    double step = c.step + 1.0, root = sqrt(1.0 - pow(c.beta2, step));
    control->step = step;
    Coefficients out;
    out.beta1 = c.beta1;
    out.rest1 = 1.0 - c.beta1;
    out.beta2 = c.beta2;
    out.rest2 = 1.0 - c.beta2;
    out.shrink = decoupled ? 1.0 - c.lr * c.weight_decay : 1.0;
    out.decay = decoupled ? 0.0 : c.weight_decay;
    out.eps = c.eps * root;
    out.rate = c.lr * root / (1.0 - pow(c.beta1, step));
    *coefficients = out;
}

// With d = scale g + decay p: m = beta1 m + (1 - beta1) d, v = beta2 v + (1 - beta2) d^2,
// p = shrink p - rate m / (sqrt(v) + eps), for n neighbouring elements.
template <int n>
__device__ __forceinline__ void update(
    float* p, float* m, float* v, const float* g, const Coefficients& c, float scale) {
    float ps[n], ms[n], vs[n], gs[n];
    load<n>(p, ps);
    load<n>(m, ms);
    load<n>(v, vs);
    load<n>(g, gs);
#pragma unroll
    for (int i = 0; i < n; i++) {
        float x = gs[i] * scale + c.decay * ps[i];
        ms[i] = ms[i] * c.beta1 + x * c.rest1;
        vs[i] = vs[i] * c.beta2 + x * x * c.rest2;
        ps[i] = ps[i] * c.shrink - ms[i] / (sqrtf(vs[i]) + c.eps) * c.rate;
    }
    store<n>(p, ps);
    store<n>(m, ms);
    store<n>(v, vs);
}

// Updates one chunk of one array: reads and writes p, m and v, reads g.
__global__ void __launch_bounds__(THREADS) adam(Tensors tensors, const Coefficients* coefficients, const float* scale) {
    float factor = scale ? *scale : 1.0f;
    if (!is_finite(factor)) return;
    Coefficients c = *coefficients;
    int i = array_of_block(tensors);
    long long begin = (blockIdx.x - tensors.first[i]) * CHUNK;
    int size = min(tensors.size[i] - begin, static_cast<long long>(CHUNK));
    float *p = tensors.p[i] + begin, *m = tensors.m[i] + begin, *v = tensors.v[i] + begin;
    const float* g = tensors.g[i] + begin;
    auto addresses = reinterpret_cast<unsigned long long>(p) | reinterpret_cast<unsigned long long>(m) |
                     reinterpret_cast<unsigned long long>(v) | reinterpret_cast<unsigned long long>(g);
    int packed = addresses % 16 == 0 ? size / 4 * 4 : 0;
    for (int k = threadIdx.x * 4; k < packed; k += THREADS * 4) update<4>(p + k, m + k, v + k, g + k, c, factor);
    for (int k = packed + threadIdx.x; k < size; k += THREADS) update<1>(p + k, m + k, v + k, g + k, c, factor);
}

// The sum of x over all threads of a block, always added in the same order. All threads get it.
__device__ __forceinline__ double block_sum_of_doubles(double x) {
    __shared__ double sums[32];
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL, x, lanes);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    double all = 0.0;
    for (int i = 0; i < blockDim.x / 32; i++) all += sums[i];
    return all;
}

// partial[block] = sum of g^2 over its chunk. Squares of float32 neither overflow nor underflow in double.
__global__ void __launch_bounds__(THREADS) sum_of_squares(Gradients gradients, double* partial) {
    int i = array_of_block(gradients);
    long long begin = (blockIdx.x - gradients.first[i]) * CHUNK;
    int size = min(gradients.size[i] - begin, static_cast<long long>(CHUNK));
    const float* g = gradients.g[i] + begin;
    int packed = reinterpret_cast<unsigned long long>(g) % 16 == 0 ? size / 4 * 4 : 0;
    double mine = 0.0;
#pragma unroll 4
    for (int k = threadIdx.x * 4; k < packed; k += THREADS * 4) {
        float x[4];
        load<4>(g + k, x);
#pragma unroll
        for (int e = 0; e < 4; e++) mine += static_cast<double>(x[e]) * x[e];
    }
    for (int k = packed + threadIdx.x; k < size; k += THREADS) mine += static_cast<double>(g[k]) * g[k];
    double all = block_sum_of_doubles(mine);
    if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

// norm = sqrt(sum of the n partial sums). One block.
__global__ void __launch_bounds__(1024) norm_of_sums(const double* partial, double* norm, long long n) {
    double mine = 0.0;
    for (long long k = threadIdx.x; k < n; k += blockDim.x) mine += partial[k];
    double all = block_sum_of_doubles(mine);
    if (threadIdx.x == 0) *norm = sqrt(all);
}

// scale = min(1, most / (norm + 1e-6)), or 1 where `most` is 0; nan for a norm that is not finite. One thread.
__global__ void clip(const double* norm, float* scale, float most) {
    double x = *norm, factor = most > 0.0f ? most / (x + 1e-6) : 1.0;
    *scale = x < infinity() ? min(1.0, factor) : infinity() - infinity();
}
