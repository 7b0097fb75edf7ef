// What generation computes token by token: attention of one new position of each sequence over the positions before it,
// and the index of the most probable token.
//
//     keys[b, h, p] = k[b, h],  values[b, h, p] = v[b, h],  p = places[b]
//     out[b, h] = sum_s w_s values[b, h, s],  w = softmax_s(scale q . keys[b, h, s]),  s = 0 .. p
//
// A block computes one head of one sequence. It reads the position p from memory, so a recorded step (CUDA graph) is
// valid for every position.
//
// A row of keys, and later of values, is read by `lanes` lanes of a warp, the smallest power of two that holds it with
// n channels (16 bytes) for each lane. The rows are dealt out to the warps of the block in turn.

#include "common.cuh"

constexpr int THREADS = 512;  // of a block at most, as in decode.py
constexpr int AHEAD = 4;  // rows that a lane loads before it uses the first of them
constexpr int PLACES = 4096, WIDEST = 1024;  // positions of a sequence and channels of a head at most, as in decode.py

// Reads q, k and v (B, H, D), with contiguous heads and sequences `stride` elements apart, and places (B); writes one
// position of keys and values (B, H, P, D), and out (B, H, D). D is a multiple of n.
template <typename T, int n>
__global__ void __launch_bounds__(THREADS, 1)  // the 1 lets ptxas use more than 40 registers; without it, it spills
attend(const T* q, const T* k, const T* v, T* keys, T* values, const long long* places, T* out, long long H,
       long long P, long long D, long long stride, float scale) {
    __shared__ float weights[PLACES], question[WIDEST], parts[THREADS / 32][32 * n];
    long long head = blockIdx.x, b = head / H, from = b * stride + head % H * D;
    long long last = places[b];
    T *own_keys = keys + head * P * D, *own_values = values + head * P * D;
    if (last < 0 || last >= P) {  // a position outside the cache: out is nan, the cache is not written
        for (int d = threadIdx.x; d < D; d += blockDim.x) out[head * D + d] = from_float<T>(infinity() - infinity());
        return;
    }
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        question[d] = to_float(q[from + d]) * scale;
        own_keys[last * D + d] = k[from + d];
        own_values[last * D + d] = v[from + d];
    }
    __syncthreads();

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int lanes = 1;  // that read one row
    while (lanes < 32 && lanes * n < D) lanes *= 2;
    int each = 32 / lanes, own = lane % lanes * n;  // rows that a warp reads at once; the first channel of a lane

    float top = -infinity();
    int step = warps * each;  // from one row of a lane to its next
    for (int first = warp * each; first <= last; first += AHEAD * step) {
        int s = first + lane / lanes;
        float score[AHEAD] = {};
#pragma unroll 1
        for (int d = own; d < D; d += lanes * n) {  // one pass, unless a head is wider than a warp reads
            float x[AHEAD][n] = {};
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                if (s + k * step <= last) load<n>(own_keys + (s + k * step) * D + d, x[k]);
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
#pragma unroll
                for (int i = 0; i < n; i++) score[k] += x[k][i] * question[d + i];
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            for (int apart = lanes / 2; apart > 0; apart /= 2) score[k] += __shfl_xor_sync(ALL, score[k], apart);
            if (s + k * step > last) continue;
            if (own == 0) weights[s + k * step] = score[k];
            top = fmaxf(top, score[k]);
        }
    }
    top = block_max(top);
    float sum = 0.0f;
    for (int s = threadIdx.x; s <= last; s += blockDim.x) sum += weights[s] = expf(weights[s] - top);
    sum = block_sum(sum);

    for (int start = 0; start < D; start += lanes * n) {  // as above
        float mine[n] = {};
        int d = start + own;
        for (int s = warp * each + lane / lanes; s <= last && d < D; s += AHEAD * step) {
            float x[AHEAD][n] = {};
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                if (s + k * step <= last) load<n>(own_values + (s + k * step) * D + d, x[k]);
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                float weight = s + k * step <= last ? weights[s + k * step] : 0.0f;
#pragma unroll
                for (int i = 0; i < n; i++) mine[i] += weight * x[k][i];
            }
        }
        for (int apart = lanes; apart < 32; apart *= 2)
#pragma unroll
            for (int i = 0; i < n; i++) mine[i] += __shfl_xor_sync(ALL, mine[i], apart);
        if (lane < lanes)
            for (int i = 0; i < n; i++) parts[warp][own + i] = mine[i];
        __syncthreads();
        d = start + threadIdx.x;
        if (threadIdx.x < lanes * n && d < D) {
            float all = 0.0f;
            for (int i = 0; i < warps; i++) all += parts[i][threadIdx.x];
            out[head * D + d] = from_float<T>(all / sum);
        }
        __syncthreads();  // before the next channels are written
    }
}

// Whether argmax prefers x at index i to y at index j: nan first, then the larger value, then the smaller index.
__device__ __forceinline__ bool beats(float x, long long i, float y, long long j) {
    bool is_nan = x != x, other_is = y != y;
    if (is_nan != other_is) return is_nan;
    return is_nan || x == y ? i < j : x > y;
}

// Each lane gets the element that argmax prefers among those of all 32 lanes, and its index.
__device__ __forceinline__ void warp_best(float& top, long long& index) {
    for (int apart = 16; apart > 0; apart /= 2) {
        float other = __shfl_xor_sync(ALL, top, apart);
        long long at = __shfl_xor_sync(ALL, index, apart);
        if (beats(other, at, top, index)) top = other, index = at;
    }
}

// out[row] = the first index of the largest element of x[row], for x (rows, C), C > 0. One block for each row.
template <typename T> __global__ void __launch_bounds__(1024) argmax(const T* x, long long* out, long long C) {
    __shared__ float tops[32];
    __shared__ long long indices[32];
    x += blockIdx.x * C;
    float top = -infinity();
    long long index = C;  // larger than any index
    for (long long start = threadIdx.x; start < C; start += 8LL * blockDim.x) {
        float value[8];  // eight loads before the first is used
#pragma unroll
        for (int k = 0; k < 8; k++) {
            long long i = start + k * blockDim.x;
            value[k] = i < C ? to_float(x[i]) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            long long i = start + k * blockDim.x;
            if (i < C && beats(value[k], i, top, index)) top = value[k], index = i;
        }
    }
    warp_best(top, index);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) tops[warp] = top, indices[warp] = index;
    __syncthreads();
    bool used = lane < blockDim.x / 32;
    top = used ? tops[lane] : -infinity(), index = used ? indices[lane] : C;
    warp_best(top, index);
    if (threadIdx.x == 0) out[blockIdx.x] = index;
}
