// Rows of a table W (V, C) by ids (N), and for the gradient the sums of the rows of g (N, C) that have the same id:
//
//     out_i = W[ids_i]          dW_v = sum of g_i over the places i with ids_i = v, 0 where there are none
//
// Atomic additions of floats would give other bits in every run. Instead the places 0 .. N - 1 are grouped by id with
// integer counts: each id gets a segment of the array `places`, and the rank of a place among those with its id is its
// index in the segment. Then a warp adds up the rows of a segment in that order; a segment of more than PIECE places is
// first summed in pieces, each by its own warp. The host does not check the ids: one outside the table gives a row of
// nan and no gradient.

#include "common.cuh"

constexpr int PIECE = 32;               // rows that one warp adds up
constexpr int TILE = 256, CHUNK = 2048;  // a block compares a tile of places with a chunk of earlier ones

// ids[i] as an int, or -1 where it is outside the table.
template <typename Index> __device__ __forceinline__ int id_at(const Index* ids, long long i, long long V) {
    long long id = ids[i];
    return id >= 0 && id < V ? static_cast<int>(id) : -1;
}

__device__ __forceinline__ long long warp_number() {
    return (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) / 32;
}

// out (N, C) = W[ids]. One warp for each row.
template <typename Index, typename T, int n>
__global__ void gather(const float* W, const Index* ids, T* out, long long N, long long V, long long C) {
    long long i = warp_number();
    if (i >= N) return;
    int id = id_at(ids, i, V);
    for (int c = threadIdx.x % 32 * n; c < C; c += 32 * n) {
        float x[n];
        if (id >= 0) load<n>(W + id * C + c, x);
#pragma unroll
        for (int k = 0; k < n; k++) x[k] = id >= 0 ? x[k] : infinity() - infinity();
        store<n>(out + i * C + c, x);
    }
}

// counts (V): how many places have each id. ranks (N): how many earlier places have the same id. Both must be zeros at
// the start. Block (x, y) compares tile x of the places with chunk y of those before them.
template <typename Index>
__global__ void __launch_bounds__(TILE) count_and_rank(const Index* ids, int* counts, int* ranks, long long N, long long V) {
    __align__(16) __shared__ int before[CHUNK];
    long long first = blockIdx.y * static_cast<long long>(CHUNK), tile = blockIdx.x * static_cast<long long>(TILE);
    if (first >= tile + TILE) return;
    for (int k = threadIdx.x; k < CHUNK; k += TILE) before[k] = first + k < N ? id_at(ids, first + k, V) : -1;
    __syncthreads();
    long long i = tile + threadIdx.x;
    int own = i < N ? id_at(ids, i, V) : -1;
    if (own < 0) return;
    int end = i - first < CHUNK ? i - first : CHUNK, k = 0, rank = 0;
    for (; k + 4 <= end; k += 4) {
        Pack<int, 4> ids4 = *pack_at<int, 4>(before + k);
#pragma unroll
        for (int e = 0; e < 4; e++) rank += ids4.element[e] == own;
    }
    for (; k < end; k++) rank += before[k] == own;
    if (rank) atomicAdd(ranks + i, rank);
    if (blockIdx.y == 0) atomicAdd(counts + own, 1);
}

// Reserves n elements of an array for each lane and returns where they begin; `used` counts the reserved ones. One
// atomic operation for the whole warp.
__device__ __forceinline__ int reserve(int n, int* used) {
    int lane = threadIdx.x % 32, end = n;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        int other = __shfl_up_sync(ALL, end, lanes);
        if (lane >= lanes) end += other;
    }
    int begin = 0;
    if (lane == 31) begin = atomicAdd(used, end);
    return __shfl_sync(ALL, begin, 31) + end - n;
}

// starts (V): where the segment of each id begins. firsts (V): the number of its first piece, where it has several.
__global__ void make_segments(const int* counts, int* starts, int* firsts, int* used, long long V) {
    long long v = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    int n = v < V ? counts[v] : 0;
    int start = reserve(n, used), first = reserve(n > PIECE ? (n + PIECE - 1) / PIECE : 0, used + 1);
    if (v >= V) return;
    starts[v] = start;
    firsts[v] = first;
}

template <typename Index>
__global__ void fill_segments(const Index* ids, const int* ranks, const int* starts, int* places, long long N, long long V) {
    long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= N) return;
    int id = id_at(ids, i, V);
    if (id >= 0) places[starts[id] + ranks[i]] = i;
}

// out (C) = sum of rows[at(k)] over k = 0 .. count - 1. Called by one warp.
template <int n, typename T, typename At>
__device__ __forceinline__ void sum_rows(const T* rows, At at, int count, long long C, float* out) {
    for (int c = threadIdx.x % 32 * n; c < C; c += 32 * n) {
        float sum[n] = {};
#pragma unroll 4
        for (int k = 0; k < count; k++) {
            float x[n];
            load<n>(rows + at(k) * C + c, x);
#pragma unroll
            for (int e = 0; e < n; e++) sum[e] += x[e];
        }
        store<n>(out + c, sum);
    }
}

// partial (pieces, C): the sum of each piece of those segments that have several. One warp for each place; the warp
// whose place is the first of a piece sums it.
template <typename Index, typename T, int n>
__global__ void sum_pieces(
    const T* g, const Index* ids, const int* counts, const int* ranks, const int* starts, const int* firsts,
    const int* places, float* partial, long long N, long long V, long long C) {
    long long i = warp_number();
    int id = i < N ? id_at(ids, i, V) : -1;
    if (id < 0 || counts[id] <= PIECE || ranks[i] % PIECE) return;
    const int* piece = places + starts[id] + ranks[i];
    auto at = [=](int k) { return static_cast<long long>(piece[k]); };
    sum_rows<n>(g, at, min(PIECE, counts[id] - ranks[i]), C, partial + (firsts[id] + ranks[i] / PIECE) * C);
}

// out (V, C): the sum of each segment, from its rows or its pieces. One warp for each row.
template <typename T, int n>
__global__ void sum_segments(
    const T* g, const int* counts, const int* starts, const int* firsts, const int* places, const float* partial,
    float* out, long long V, long long C) {
    long long v = warp_number();
    if (v >= V) return;
    int count = counts[v];
    if (count <= PIECE) {
        const int* segment = places + starts[v];
        sum_rows<n>(g, [=](int k) { return static_cast<long long>(segment[k]); }, count, C, out + v * C);
    } else {
        long long first = firsts[v];
        sum_rows<n>(partial, [=](int k) { return first + k; }, (count + PIECE - 1) / PIECE, C, out + v * C);
    }
}
