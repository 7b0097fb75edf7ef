// Stand-ins for four C libraries of NVIDIA on a machine without a GPU. It is compiled once for each of them, with
// its name defined.
//
// NVIDIA's own Python packages call them, so a test sees what these packages make of our calls. Written from NVIDIA's
// documentation: https://docs.nvidia.com/cuda/cublas (the cublasLt API) and https://docs.nvidia.com/cudnn. The numbers of
// enumerations are those of the libraries' headers.
//
// cublasLt multiplies, in double, what its descriptions say. It refuses what the documentation excludes, and what would
// be an error or wrong numbers on a GPU without a message: memory of the host where the GPU's is expected or the other
// way round, addresses that keep less alignment than was promised, too little workspace, objects that were destroyed.
// `stand_in_memory` is the GPU's memory, `stand_in_error` says what was wrong.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };  // cublasStatus_t
enum { F32 = 0, BF16 = 14 };                                  // cudaDataType_t

static std::string error;
static std::set<void*> alive;
static char* memory = nullptr;
static size_t memory_size = 0;

static int refuse(const std::string& what, int status = INVALID_VALUE) { error = what; return status; }

enum { CREATE, HEURISTIC, PRODUCT };
static int wanted_status[3] = {0, 0, 0};  // what a test wants them to answer; of the heuristic -1: no algorithm

template <typename T, typename... A> static int make(void** target, A... values) {
    *target = new T{values...};
    alive.insert(*target);
    return SUCCESS;
}

template <typename T> static int drop(void* object) {
    if (!alive.erase(object)) return refuse("destroyed twice");
    delete (T*)object;
    return SUCCESS;
}

template <typename T> static int assign(T& target, const void* value, size_t size) {
    if (size != sizeof(T)) return refuse("an attribute of another size");
    memcpy(&target, value, size);
    return SUCCESS;
}

extern "C" {

// ----- the driver and the runtime -----------------------------------------------------------------------------------

#ifdef libcuda
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
#endif

#ifdef libcudart
int cudaGetDevice(int* device) { *device = 0; return 0; }
const char* cudaGetErrorString(int) { return "there is no GPU"; }
int cudaGetDeviceProperties(char* properties, int) {  // of cudaDeviceProp the compute capability alone, 9.0
    *(int*)(properties + 360) = 9;
    *(int*)(properties + 364) = 0;
    return 0;
}
#endif

// ----- cuDNN: what its front end asks before it builds a graph ------------------------------------------------------

static long given_stream = -1;

long stand_in_stream() { return given_stream; }

#ifdef libcudnn
size_t cudnnGetVersion() { return 91300; }
int cudnnCreate(void** handle) { *handle = (void*)0x10; return 0; }
int cudnnDestroy(void*) { return 0; }
int cudnnSetStream(void*, void* stream) { given_stream = (long)stream; return 0; }
int cudnnGetStream(void*, void** stream) { *stream = nullptr; return 0; }
const char* cudnnGetErrorString(int) { return "there is no cuDNN"; }
void cudnnGetLastErrorString(char* text, size_t size) { snprintf(text, size, "there is no cuDNN"); }
#endif

// ----- cublasLt -----------------------------------------------------------------------------------------------------

#ifdef libcublasLt
struct Description { int compute, scale, pointers = 0, transposed[2] = {0, 0}; unsigned epilogue = 1; char* bias = nullptr; };
struct Matrix { int type; uint64_t rows, columns; int64_t leading; int batches = 1; int64_t step = 0; };
struct Preference { uint64_t workspace = 0; unsigned alignments[4] = {256, 256, 256, 256}; };
struct Algorithm { Preference promised; uint64_t bias; Description description; Matrix matrices[4]; };
struct Result { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };

const char* stand_in_error() { return error.c_str(); }
long stand_in_objects() { return (long)alive.size(); }

char* stand_in_memory(size_t size) {
    memory = (char*)aligned_alloc(1 << 12, size);
    memory_size = size;
    return memory;
}

static bool on_gpu(const void* at, size_t bytes = 1) {
    return (char*)at >= memory && (char*)at + bytes <= memory + memory_size;
}

void stand_in_want(int function, int status) { wanted_status[function] = status; }

size_t cublasLtGetVersion() { return 130100; }
int cublasLtCreate(void** handle) { *handle = (void*)0x20; return wanted_status[CREATE]; }
int cublasLtDestroy(void*) { return SUCCESS; }

int cublasLtMatmulDescCreate(void** target, int compute, int scale) {
    if (scale != F32 || (compute != 68 && compute != 77)) return refuse("a type of computation", NOT_SUPPORTED);
    return make<Description>(target, compute, scale);
}
int cublasLtMatmulDescDestroy(void* target) { return drop<Description>(target); }
int cublasLtMatmulDescSetAttribute(void* target, int attribute, const void* value, size_t size) {
    Description& d = *(Description*)target;
    if (!alive.count(target)) return refuse("a description that is not alive");
    switch (attribute) {
        case 2: return assign(d.pointers, value, size);
        case 3: return assign(d.transposed[0], value, size);
        case 4: return assign(d.transposed[1], value, size);
        case 7: return assign(d.epilogue, value, size);
        case 8: return assign(d.bias, value, size);
    }
    return refuse("an attribute of a description", NOT_SUPPORTED);
}

int cublasLtMatrixLayoutCreate(void** target, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return make<Matrix>(target, type, rows, columns, leading);
}
int cublasLtMatrixLayoutDestroy(void* target) { return drop<Matrix>(target); }
int cublasLtMatrixLayoutSetAttribute(void* target, int attribute, const void* value, size_t size) {
    Matrix& m = *(Matrix*)target;
    if (!alive.count(target)) return refuse("a layout that is not alive");
    if (attribute == 5) return assign(m.batches, value, size);
    if (attribute == 6) return assign(m.step, value, size);
    return refuse("an attribute of a layout", NOT_SUPPORTED);
}

int cublasLtMatmulPreferenceCreate(void** target) { return make<Preference>(target); }
int cublasLtMatmulPreferenceDestroy(void* target) { return drop<Preference>(target); }
int cublasLtMatmulPreferenceSetAttribute(void* target, int attribute, const void* value, size_t size) {
    Preference& p = *(Preference*)target;
    if (!alive.count(target)) return refuse("a preference that is not alive");
    if (attribute == 1) return assign(p.workspace, value, size);
    if (attribute >= 5 && attribute <= 8) return assign(p.alignments[attribute - 5], value, size);
    return refuse("an attribute of a preference", NOT_SUPPORTED);
}

static int check(Description& d, Matrix& a, Matrix& b, Matrix& c, Matrix& out) {
    for (Matrix* m : {&a, &b, &c, &out}) {
        if (m->rows == 0 || m->columns == 0) return refuse("a matrix without elements");
        if (m->leading < (int64_t)m->rows) return refuse("a leading dimension below the number of rows");
        if (m->batches != out.batches) return refuse("batches of different sizes");
    }
    for (int t : d.transposed) if (t != 0 && t != 1) return refuse("an operation on an operand");
    uint64_t m = d.transposed[0] ? a.columns : a.rows, k = d.transposed[0] ? a.rows : a.columns;
    uint64_t also_k = d.transposed[1] ? b.columns : b.rows, n = d.transposed[1] ? b.rows : b.columns;
    if (k != also_k || m != out.rows || n != out.columns || c.rows != out.rows || c.columns != out.columns)
        return refuse("matrices whose sizes do not fit");
    if (a.type != b.type || c.type != out.type || (a.type != F32 && a.type != BF16) || (out.type != F32 && out.type != BF16))
        return refuse("types of matrices", NOT_SUPPORTED);
    if (a.type == F32 && out.type != F32) return refuse("a bfloat16 result of float32 operands", NOT_SUPPORTED);
    if (a.type == BF16 && d.compute == 77) return refuse("TF32 of bfloat16 operands", NOT_SUPPORTED);
    if (d.epilogue != 1 && d.epilogue != 4) return refuse("an epilogue", NOT_SUPPORTED);
    if (d.pointers != 0 && d.pointers != 1) return refuse("a pointer mode", NOT_SUPPORTED);
    return SUCCESS;
}

static uint64_t alignment(const void* at) { uint64_t a = (uint64_t)at | 256; return a & -a; }

int cublasLtMatmulAlgoGetHeuristic(
    void*, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted, Result* results, int* count) {
    for (void* x : {desc, a, b, c, d, preference}) if (!alive.count(x)) return refuse("an object that is not alive");
    if (wanted < 1) return refuse("no algorithm is wanted");
    *count = 0;
    if (int status = wanted_status[HEURISTIC]) return status == -1 ? SUCCESS : refuse("as a test wants", status);
    Description& description = *(Description*)desc;
    if (int status = check(description, *(Matrix*)a, *(Matrix*)b, *(Matrix*)c, *(Matrix*)d)) return status;
    Algorithm* algorithm = new Algorithm{  // kept: a plan points to its number
        *(Preference*)preference, description.epilogue == 4 ? alignment(description.bias) : 0, description,
        {*(Matrix*)a, *(Matrix*)b, *(Matrix*)c, *(Matrix*)d}};
    memset(results, 0, sizeof(Result));
    results[0].algorithm[0] = (uint64_t)algorithm;
    results[0].workspace = algorithm->promised.workspace;  // as much as it may have
    *count = 1;
    return SUCCESS;
}

static float from_bf16(uint16_t x) { uint32_t bits = (uint32_t)x << 16; float f; memcpy(&f, &bits, 4); return f; }
static uint16_t to_bf16(float f) {
    uint32_t bits; memcpy(&bits, &f, 4);
    return std::isnan(f) ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static float tf32(float f) {  // 10 bits of fraction
    uint32_t bits; memcpy(&bits, &f, 4);
    bits = (bits + 0x1000) & ~0x1fffu;
    memcpy(&f, &bits, 4);
    return f;
}

static char* place(const Matrix& m, const void* base, int batch, uint64_t i, uint64_t j) {
    return (char*)base + (m.type == F32 ? 4 : 2) * ((int64_t)batch * m.step + (int64_t)j * m.leading + (int64_t)i);
}
static float read(int type, const char* at) {
    if (type == BF16) return from_bf16(*(const uint16_t*)at);
    float f; memcpy(&f, at, 4); return f;
}

int cublasLtMatmul(
    void*, void* desc, const void* alpha, const void* a, void* adesc, const void* b, void* bdesc, const void* beta,
    const void* c, void* cdesc, void* d, void* ddesc, const uint64_t* algo, void* workspace, size_t size, void* stream) {
    for (void* x : {desc, adesc, bdesc, cdesc, ddesc}) if (!alive.count(x)) return refuse("an object that is not alive");
    if (int status = wanted_status[PRODUCT]) return refuse("as a test wants", status);
    Description& description = *(Description*)desc;
    Matrix &ma = *(Matrix*)adesc, &mb = *(Matrix*)bdesc, &mc = *(Matrix*)cdesc, &md = *(Matrix*)ddesc;
    if (int status = check(description, ma, mb, mc, md)) return status;
    Algorithm& algorithm = *(Algorithm*)algo[0];
    Matrix* given[4] = {&ma, &mb, &mc, &md};
    const void* addresses[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (memcmp(&algorithm.matrices[i], given[i], sizeof(Matrix))) return refuse("an algorithm of other matrices");
        if ((uint64_t)addresses[i] % algorithm.promised.alignments[i]) return refuse("less alignment than promised");
        Matrix& m = *given[i];
        char* end = place(m, addresses[i], m.batches - 1, m.rows - 1, m.columns - 1) + (m.type == F32 ? 4 : 2);
        if (!on_gpu(addresses[i], end - (char*)addresses[i])) return refuse("a matrix that is not on the GPU");
    }
    if (algorithm.description.compute != description.compute || algorithm.description.epilogue != description.epilogue ||
        algorithm.description.pointers != description.pointers)
        return refuse("an algorithm of another product");
    bool has_bias = description.epilogue == 4;
    if (has_bias && alignment(description.bias) < algorithm.bias) return refuse("less alignment of the bias than before");
    if (has_bias && !on_gpu(description.bias, md.rows * (md.type == F32 ? 4 : 2))) return refuse("a bias not on the GPU");
    if (size < algorithm.promised.workspace || (size && !on_gpu(workspace, size)) || (uint64_t)workspace % 256)
        return refuse("too little workspace, or workspace that is not on the GPU or not at a multiple of 256 bytes");
    for (const void* scalar : {alpha, beta})
        if (on_gpu(scalar, 4) != (description.pointers == 1)) return refuse("alpha or beta are not where they should be");
    if (c == d && memcmp(&mc, &md, sizeof(Matrix))) return refuse("C and D share memory with other layouts");
    memset(workspace, 0xff, algorithm.promised.workspace);  // it may be written to
    given_stream = (long)stream;
    float one = *(const float*)alpha, two = *(const float*)beta;
    uint64_t K = description.transposed[0] ? ma.rows : ma.columns;
    for (int batch = 0; batch < md.batches; batch++)
        for (uint64_t j = 0; j < md.columns; j++)
            for (uint64_t i = 0; i < md.rows; i++) {
                double sum = 0;
                for (uint64_t k = 0; k < K; k++) {
                    float x = read(ma.type, description.transposed[0] ? place(ma, a, batch, k, i) : place(ma, a, batch, i, k));
                    float y = read(mb.type, description.transposed[1] ? place(mb, b, batch, j, k) : place(mb, b, batch, k, j));
                    sum += description.compute == 77 ? (double)tf32(x) * tf32(y) : (double)x * y;
                }
                double value = one * sum;
                if (two != 0) value += two * read(mc.type, place(mc, c, batch, i, j));  // for beta = 0, C is not read
                if (has_bias) value += read(md.type, description.bias + i * (md.type == F32 ? 4 : 2));
                char* target = place(md, d, batch, i, j);
                if (md.type == F32) { float f = (float)value; memcpy(target, &f, 4); }
                else { uint16_t h = to_bf16((float)value); memcpy(target, &h, 2); }
            }
    return SUCCESS;
}
#endif
}
