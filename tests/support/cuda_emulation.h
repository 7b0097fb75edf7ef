// CUDA for a CPU: enough of the language to run tensorlite's kernels without a GPU. Used by emulator.py only.
//
// One idea: each thread of a block is a fiber, and a scheduler runs them one after another up to their next barrier or
// shuffle. Blocks follow each other, so static memory serves as shared memory. The order of the threads is turned
// around at every step: a kernel that misses a barrier gives wrong numbers here too. Deterministic.
// Reported instead of computed: barriers and shuffles that not all threads reach, reads from lanes that take no part,
// arguments whose number, types or sizes are not those of the kernel's parameters.

#pragma once
#define TENSORLITE_EMULATED

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::max;
using std::min;

// ----- vector types -----------------------------------------------------------------------------------------------

struct uint3 { unsigned int x, y, z; };
struct dim3 { unsigned int x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ----- bit casts and arithmetic -----------------------------------------------------------------------------------

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline float __int_as_float(int x) { return bits_as<float>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((1ull * a * b) >> 32); }

struct __nv_bfloat16 { unsigned short bits; };  // to the nearest float16 with 8 bits of exponent, ties to even
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }

template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T x) { *p = x; }
template <class T> inline void __stcg(T* p, T x) { *p = x; }
template <class T> inline T atomicAdd(T* p, T x) {
    static_assert(!std::is_floating_point<T>::value, "floats added in any order give other bits in every run");
    T old = *p;
    *p = old + x;
    return old;
}
template <class T> inline T atomicMax(T* p, T x) { T old = *p; *p = max(old, x); return old; }
template <class T> inline T atomicExch(T* p, T x) { T old = *p; *p = x; return old; }
template <class T> inline T atomicCAS(T* p, T expected, T x) { T old = *p; if (old == expected) *p = x; return old; }

// ----- fibers -----------------------------------------------------------------------------------------------------

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulation {

enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber {
    State state;
    unsigned mask, source;  // of the warp's operation it waits in: who takes part, and from which lane it wants
    uint64_t value;         // what it gives; then what it gets
    bool made;
    ucontext_t first;
    jmp_buf context;
};

constexpr int MOST = 1024;
constexpr size_t STACK = 128 << 10;
static Fiber fibers[MOST];
static char* stacks;
static int current;
static ucontext_t scheduler_first;
static jmp_buf scheduler;
static void (*body)();
static char error[400];

// _setjmp and _longjmp switch between the fibers: swapcontext, which makes two system calls, only starts them.
inline void wait_as(State state) {
    Fiber& self = fibers[current];
    self.state = state;
    if (_setjmp(self.context) == 0) _longjmp(scheduler, 1);
}

inline void fiber_main() {
    for (;;) {
        body();
        wait_as(DONE);
    }
}

inline void resume(int i) {
    Fiber& fiber = fibers[i];
    current = i;
    threadIdx = {static_cast<unsigned>(i), 0, 0};
    if (_setjmp(scheduler) != 0) return;
    if (fiber.made) _longjmp(fiber.context, 1);
    fiber.made = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks + i * STACK;
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, fiber_main, 0);
    setcontext(&fiber.first);
}

template <class T>
inline T exchange(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    Fiber& self = fibers[current];
    self.mask = mask;
    self.source = source;
    self.value = 0;
    memcpy(&self.value, &value, sizeof(T));
    wait_as(IN_WARP);
    memcpy(&value, &self.value, sizeof(T));
    return value;
}

inline bool fail(const char* what, int i) {
    snprintf(error, sizeof(error), "%s: thread %d of block (%u, %u, %u)", what, i, blockIdx.x, blockIdx.y, blockIdx.z);
    return false;
}

// Let the lanes of a warp go on whose operation all of its lanes have reached; false after an error.
inline bool release_warp(int first, int threads, bool& released) {
    for (int lane = 0; lane < 32 && first + lane < threads; lane++) {
        Fiber& fiber = fibers[first + lane];
        if (fiber.state != IN_WARP) continue;
        unsigned mask = fiber.mask;
        if (!(mask >> lane & 1)) return fail("a lane that its own mask leaves out", first + lane);
        bool all = true;
        for (int other = 0; other < 32; other++) {
            if (!(mask >> other & 1)) continue;
            if (first + other >= threads || fibers[first + other].state == DONE)
                return fail("an operation of a warp waits for a lane that is not there or has returned", first + lane);
            all &= fibers[first + other].state == IN_WARP && fibers[first + other].mask == mask;
        }
        if (!all) continue;
        uint64_t given[32];
        for (int other = 0; other < 32; other++)
            if (mask >> other & 1) given[other] = fibers[first + other].value;
        for (int other = 0; other < 32; other++) {
            if (!(mask >> other & 1)) continue;
            Fiber& waiting = fibers[first + other];
            if (!(mask >> waiting.source & 1)) return fail("a shuffle from a lane that takes no part", first + other);
            waiting.value = given[waiting.source];
            waiting.state = READY;
        }
        released = true;
    }
    return true;
}

inline bool run_block(int threads) {
    for (int i = 0; i < threads; i++) fibers[i].state = READY;
    for (bool backwards = blockIdx.x & 1;; backwards = !backwards) {
        for (int k = 0; k < threads; k++) {
            int i = backwards ? threads - 1 - k : k;
            if (fibers[i].state == READY) resume(i);
        }
        int done = 0, at_barrier = 0;
        bool released = false;
        for (int i = 0; i < threads; i++) {
            done += fibers[i].state == DONE;
            at_barrier += fibers[i].state == AT_BARRIER;
        }
        if (done == threads) return true;
        if (done + at_barrier == threads) {
            for (int i = 0; i < threads; i++)
                if (fibers[i].state == AT_BARRIER) fibers[i].state = READY;
            continue;
        }
        for (int first = 0; first < threads; first += 32)
            if (!release_warp(first, threads, released)) return false;
        if (!released) {
            for (int i = 0; i < threads; i++)
                if (fibers[i].state == IN_WARP) return fail("not all of a warp's lanes reach one operation", i);
        }
    }
}

// ----- a launch ---------------------------------------------------------------------------------------------------

template <class T> struct Name { static constexpr const char* text = nullptr; };  // nullptr: only its size is checked
template <> struct Name<float> { static constexpr const char* text = "float32"; };
template <> struct Name<double> { static constexpr const char* text = "float64"; };
template <> struct Name<__nv_bfloat16> { static constexpr const char* text = "bfloat16"; };
template <> struct Name<int> { static constexpr const char* text = "int32"; };
template <> struct Name<long long> { static constexpr const char* text = "int64"; };
template <> struct Name<unsigned> { static constexpr const char* text = "uint32"; };
template <> struct Name<unsigned char> { static constexpr const char* text = "uint8"; };
template <> struct Name<bool> { static constexpr const char* text = "bool"; };

struct Argument {
    const void* data;   // where its value is
    const char* dtype;  // of the value, or of what the pointer points to; "null" for a null pointer
    long long size;
    int pointer;
};

template <class P>
inline void check(const Argument& given, int i) {
    using To = std::remove_cv_t<std::remove_pointer_t<P>>;
    bool null = !strcmp(given.dtype, "null"), named = Name<To>::text != nullptr;
    if (null ? std::is_pointer<P>::value : given.pointer == std::is_pointer<P>::value &&
            given.size == static_cast<long long>(sizeof(P)) && (!named || !strcmp(Name<To>::text, given.dtype))) return;
    snprintf(error, sizeof(error), "argument %d is %s%s (%lld bytes); the kernel wants %s%s (%d bytes)", i, given.dtype,
        given.pointer ? "*" : "", given.size, named ? Name<To>::text : "a structure",
        std::is_pointer<P>::value ? "*" : "", static_cast<int>(sizeof(P)));
}

template <class... P> struct Call {
    static void (*kernel)(P...);
    static const Argument* given;
    template <size_t... I> static void with(std::index_sequence<I...>) {
        kernel(*static_cast<const std::remove_reference_t<P>*>(given[I].data)...);
    }
    static void run() { with(std::index_sequence_for<P...>()); }
    template <size_t... I> static void check_all(std::index_sequence<I...>) {
        int unused[] = {0, (check<P>(given[I], I), 0)...};
        (void)unused;
    }
};
template <class... P> void (*Call<P...>::kernel)(P...);
template <class... P> const Argument* Call<P...>::given;

template <class... P>
const char* launch(void (*kernel)(P...), dim3 grid, int threads, const Argument* given, int count) {
    error[0] = 0;
    if (count != sizeof...(P)) {
        snprintf(error, sizeof(error), "%d arguments; the kernel wants %d", count, static_cast<int>(sizeof...(P)));
        return error;
    }
    if (threads < 1 || threads > MOST) return "a block has 1 to 1024 threads";
    Call<P...>::kernel = kernel;
    Call<P...>::given = given;
    Call<P...>::check_all(std::index_sequence_for<P...>());
    if (error[0]) return error;
    if (!stacks) {
        constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* memory = mmap(nullptr, MOST * STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
        stacks = static_cast<char*>(memory);
    }
    body = Call<P...>::run;
    gridDim = grid;
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                if (!run_block(threads)) {
                    for (int i = 0; i < MOST; i++) fibers[i].made = false;  // they stand in the middle of something
                    return error;
                }
            }
    return error[0] ? error : nullptr;
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait_as(emulation::AT_BARRIER); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::exchange(mask, 0, threadIdx.x % 32); }

template <class T> inline T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
    unsigned own = threadIdx.x % 32;
    return emulation::exchange(mask, x, (own & ~(width - 1u)) | (lane & (width - 1u)));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32) {
    unsigned own = threadIdx.x % 32, source = own ^ lanes;
    return emulation::exchange(mask, x, source < (own & ~(width - 1u)) + width ? source : own);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
    unsigned own = threadIdx.x % 32, source = own + lanes;
    return emulation::exchange(mask, x, source < (own & ~(width - 1u)) + width ? source : own);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
    unsigned own = threadIdx.x % 32, first = own & ~(width - 1u);
    return emulation::exchange(mask, x, own >= first + lanes ? own - lanes : own);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned all = 0;
    for (int lane = 0; lane < 32; lane++)  // a shuffle from each lane
        if (mask >> lane & 1) all |= __shfl_sync(mask, predicate ? 1u : 0u, lane) << lane;
    return all;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __activemask() { return 0xffffffffu; }

// A pointer that a vector access needs aligned: what a GPU would refuse is reported here.
template <class V, class P> inline V* emulated_aligned(P* p) {
    if (reinterpret_cast<uintptr_t>(p) % alignof(V) && !emulation::error[0])
        emulation::fail("a vector access to an address that is not aligned", threadIdx.x);
    return reinterpret_cast<V*>(p);
}
