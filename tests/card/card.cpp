// A pretended CUDA driver and runtime: cards whose kernels do nothing.
//
// Preloaded, it answers in the place of libcuda, libcudart, cuBLAS, cuDNN and NCCL. PyTorch's
// allocator, dispatcher, autograd, optimisers, DDP, FSDP and compiler then run as on a machine with
// H200s, and what they ask of the card is written down. No number a kernel would compute is there: whatever
// is read back from a card is zero, or what the host has put there, if that was little. `card.py` builds this file and adds an empty answer for
// every other function that PyTorch's libraries import.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>
#define API extern "C" __attribute__((visibility("default")))

static constexpr size_t TOTAL = 141ull << 30, DRIVERS_OWN = 512ull << 20;

static constexpr size_t REMEMBERED = 1 << 16;

struct Block { size_t size; bool device; };
struct World {  // never taken down: libraries call while the process ends
  std::recursive_mutex lock;
  std::map<const void*, const char*> kernels;
  std::map<char*, Block> blocks;
  std::map<const void*, std::vector<char>> sent;  // what the host has copied there
  std::vector<std::string> log;
  bool listening = false;
  size_t used = 0;
};
static World& world() { static World* w = new World; return *w; }
using Guard = std::lock_guard<std::recursive_mutex>;

// --- what Python asks: card_listen(), card_mark("name"), card_write("file") ----------------------

static void note(const char* kind, const std::string& what, size_t bytes = 0) {
  World& w = world(); Guard guard(w.lock);
  if (w.listening) w.log.push_back(std::string(kind) + "\t" + what + "\t" + std::to_string(bytes));
}
API void card_note(const char* name) { note("other", name); }
API void card_mark(const char* name) { note("mark", name); }
API void card_listen() { World& w = world(); Guard guard(w.lock); w.log.clear(); w.listening = true; }
API void card_write(const char* path) {
  World& w = world(); Guard guard(w.lock);
  w.listening = false;
  FILE* file = fopen(path, "w");
  for (auto& line : w.log) fprintf(file, "%s\n", line.c_str());
  fclose(file);
}

// --- memory: reserved addresses that cost nothing until they are touched -------------------------

static cudaError_t take(void** p, size_t size, bool device) {
  World& w = world(); Guard guard(w.lock);
  if (device && w.used + size > TOTAL - DRIVERS_OWN) return cudaErrorMemoryAllocation;
  *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*p == MAP_FAILED) return cudaErrorMemoryAllocation;
  w.blocks[(char*)*p] = {size, device};
  if (device) w.used += size;
  return cudaSuccess;
}
static cudaError_t drop(void* p) {
  World& w = world(); Guard guard(w.lock);
  auto found = w.blocks.find((char*)p);
  if (found == w.blocks.end()) return cudaSuccess;
  if (found->second.device) w.used -= found->second.size;
  munmap(p, found->second.size);
  w.blocks.erase(found);
  return cudaSuccess;
}
static const char* place(const void* p) {
  World& w = world(); Guard guard(w.lock);
  auto after = w.blocks.upper_bound((char*)p);
  if (after == w.blocks.begin()) return "pageable";
  auto& [start, block] = *--after;
  return (char*)p >= start + block.size ? "pageable" : block.device ? "card" : "pinned";
}
static cudaError_t copy(void* to, const void* from, size_t n) {
  std::string source = place(from), target = place(to);
  note("copy", source + " to " + target, n);
  World& w = world(); Guard guard(w.lock);
  if (source != "card" && target == "card" && n <= REMEMBERED)
    w.sent[to].assign((const char*)from, (const char*)from + n);
  if (source == "card" && target != "card") {
    auto found = w.sent.find((void*)from);
    if (found != w.sent.end() && found->second.size() == n) memcpy(to, found->second.data(), n);
    else memset(to, 0, n);
  }
  if (source != "card" && target != "card") memmove(to, from, n);
  return cudaSuccess;
}
static cudaError_t wait(const char* how) { note("wait", how); return cudaSuccess; }
static cudaError_t fill(size_t n) { note("fill", "memset", n); return cudaSuccess; }
API cudaError_t cudaMalloc(void** p, size_t n) { note("malloc", "card", n); return take(p, n, true); }
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaFree(void* p) { return drop(p); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return drop(p); }
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return take(p, n, false); }
API cudaError_t cudaMallocHost(void** p, size_t n) { return take(p, n, false); }
API cudaError_t cudaFreeHost(void* p) { return drop(p); }
API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = TOTAL; *free = TOTAL - DRIVERS_OWN - world().used; return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  wait("cudaMemcpy"); return copy(to, from, n);
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
  return copy(to, from, n);
}
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n, cudaStream_t) {
  return copy(to, from, n);
}
API cudaError_t cudaMemcpy2DAsync(
    void*, size_t, const void*, size_t, size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  note("copy", "rows", width * height); return cudaSuccess;
}
API cudaError_t cudaMemset(void*, int, size_t n) { return fill(n); }
API cudaError_t cudaMemsetAsync(void*, int, size_t n, cudaStream_t) { return fill(n); }
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  char first = *place(p) == 'c' ? 'c' : place(p)[1];  // card, pInned, pAgeable
  a->type = first == 'c' ? cudaMemoryTypeDevice
          : first == 'i' ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  a->devicePointer = a->hostPointer = (void*)p;
  return cudaSuccess;
}
API cudaError_t cudaGetSymbolAddress(void** p, const void* s) { *p = (void*)s; return cudaSuccess; }

// --- devices -------------------------------------------------------------------------------------

static int cards() { const char* n = getenv("CARDS"); return n ? atoi(n) : 1; }
static thread_local int current = 0;
API cudaError_t cudaGetDeviceCount(int* n) { *n = cards(); return cudaSuccess; }
API cudaError_t cudaGetDevice(int* d) { *d = current; return cudaSuccess; }
API cudaError_t cudaSetDevice(int d) { current = d; return cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaDeviceCanAccessPeer(int* yes, int, int) { *yes = 0; return cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int* low, int* high) {
  *low = 0; *high = -5; return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr what, int) {
  static const std::map<int, int> h200 = {
    {cudaDevAttrMultiProcessorCount, 132}, {cudaDevAttrComputeCapabilityMajor, 9},
    {cudaDevAttrComputeCapabilityMinor, 0}, {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrMaxBlocksPerMultiprocessor, 32}, {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448}, {cudaDevAttrL2CacheSize, 60 << 20},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
    {cudaDevAttrMaxRegistersPerBlock, 65536}, {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
    {cudaDevAttrMaxGridDimX, 2147483647}, {cudaDevAttrMaxGridDimY, 65535}};
  auto found = h200.find(what);
  *v = found == h200.end() ? 1 : found->second;
  return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Pretended H200");
  p->totalGlobalMem = TOTAL; p->major = 9; p->multiProcessorCount = 132; p->warpSize = 32;
  p->maxThreadsPerBlock = 1024; p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536; p->l2CacheSize = 60 << 20;
  p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472; p->maxBlocksPerMultiProcessor = 32;
  p->textureAlignment = 512; p->memoryBusWidth = 6144; p->unifiedAddressing = 1;
  return cudaSuccess;
}

// --- streams and events --------------------------------------------------------------------------

template <class T> static cudaError_t made(T* handle) { *handle = (T)calloc(1, 256); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return made(s); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return made(s); }
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone; return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status,
    unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone; return cudaSuccess;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t* e) { return made(e); }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return made(e); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { *ms = 1; return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { note("event wait", "cudaEventSynchronize"); return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait("cudaStreamSynchronize"); }
API cudaError_t cudaDeviceSynchronize() { return wait("cudaDeviceSynchronize"); }
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t f, void* data) { f(data); return cudaSuccess; }
API const char* cudaGetErrorString(cudaError_t) { return "pretended"; }
API const char* cudaGetErrorName(cudaError_t) { return "pretended"; }

// --- kernels: their names, nothing else ----------------------------------------------------------

struct Launch { dim3 grid, block; size_t shared; void* stream; };
static thread_local std::vector<Launch> launches;
static cudaError_t launched(const void* f) {
  World& w = world(); Guard guard(w.lock);
  auto found = w.kernels.find(f);
  note("kernel", found == w.kernels.end() ? "?" : found->second);
  return cudaSuccess;
}
API void** __cudaRegisterFatBinary(void*) { static void* handle[2]; return handle; }
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*,
                                dim3*, dim3*, int*) {
  World& w = world(); Guard guard(w.lock);
  w.kernels[host] = name;
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  launches.push_back({grid, block, shared, stream}); return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Launch l = launches.back(); launches.pop_back();
  *grid = l.grid; *block = l.block; *shared = l.shared; *(void**)stream = l.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(const void** k, const void* f) { *k = f; return cudaSuccess; }
API cudaError_t __cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launched(f); }
API cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launched(f); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* f, void**) { return launched(f); }
API cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launched(f); }
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->binaryVersion = a->ptxVersion = 90; a->maxThreadsPerBlock = 1024; a->numRegs = 32;
  a->maxDynamicSharedSizeBytes = 232448;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 2; return cudaSuccess; }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 2; return cudaSuccess; }

// --- the driver, as Triton, Inductor and the allocator ask for it --------------------------------

API int cuDriverGetVersion(int* v) { return cudaDriverGetVersion(v); }
API int cuDeviceGetCount(int* n) { return cudaGetDeviceCount(n); }
API int cuDeviceGet(int* d, int n) { *d = n; return 0; }
API int cuDeviceGetAttribute(int* v, int what, int d) { return cudaDeviceGetAttribute(v, (cudaDeviceAttr)what, d); }
API int cuDeviceGetName(char* s, int n, int) { snprintf(s, n, "Pretended H200"); return 0; }
API int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { *flags = 0; *active = 1; return 0; }
API int cuDevicePrimaryCtxRetain(void** c, int) { *c = &world(); return 0; }
API int cuCtxGetCurrent(void** c) { *c = &world(); return 0; }
API int cuCtxGetDevice(int* d) { return cudaGetDevice(d); }
API int cuGetErrorString(int, const char** s) { *s = "pretended"; return 0; }
API int cuGetErrorName(int, const char** s) { *s = "pretended"; return 0; }
API int cuModuleLoadData(void** m, const void*) { *m = &world(); return 0; }
API int cuModuleLoadDataEx(void** m, const void*, unsigned, void*, void*) { *m = &world(); return 0; }
API int cuModuleLoad(void** m, const char*) { *m = &world(); return 0; }
API int cuModuleGetFunction(void** f, void*, const char* name) { *f = strdup(name); return 0; }
API int cuFuncGetAttribute(int* v, int what, void*) { *v = what == 0 ? 1024 : what == 4 ? 32 : 0; return 0; }
API int cuLaunchKernel(const char* f) { note("kernel", f); return 0; }
API int cuLaunchKernelEx(void*, const char* f) { note("kernel", f); return 0; }
API int cuOccupancyMaxActiveClusters(int* n) { *n = 16; return 0; }
API int cuPointerGetAttribute(void* data, int what, size_t p) {
  if (what == 3) *(size_t*)data = p; else *(int*)data = 2;  // 3: its address on the card
  return 0;
}
API int cuStreamSynchronize(void*) { return wait("cuStreamSynchronize"); }
static int refused() { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
static int allowed() { return 0; }
API int cuGetProcAddress_v2(const char* name, void** p, int, size_t, int* found) {
  std::string versioned = std::string(name) + "_v2";
  *p = dlsym(RTLD_DEFAULT, name);
  if (!*p) *p = dlsym(RTLD_DEFAULT, versioned.c_str());
  for (const char* none : {"cuMem", "cuMulticast"})
    if (!*p && !strncmp(name, none, strlen(none))) *p = (void*)refused;
  if (!*p) *p = (void*)allowed;
  if (found) *found = 0;
  return 0;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** p, unsigned,
    unsigned long long, cudaDriverEntryPointQueryResult* result) {
  if (result) *result = cudaDriverEntryPointSuccess;
  return (cudaError_t)cuGetProcAddress_v2(name, p, 0, 0, nullptr);
}
#define DRIVER(name) API int name() { return 0; }
DRIVER(cuInit) DRIVER(cuCtxSetCurrent) DRIVER(cuCtxPushCurrent_v2) DRIVER(cuCtxPopCurrent_v2)
DRIVER(cuModuleUnload) DRIVER(cuFuncSetAttribute) DRIVER(cuFuncSetCacheConfig)
DRIVER(cuTensorMapEncodeTiled) DRIVER(cuCtxGetLimit) DRIVER(cuCtxSetLimit) DRIVER(cuStreamIsCapturing)

// --- cuBLAS, cuDNN, NCCL -------------------------------------------------------------------------

#define MATMUL(name) API int name() { note("matmul", #name); return 0; }
#define HANDLE(name) API int name(void** p) { *p = calloc(1, 512); return 0; }
MATMUL(cublasLtMatmul) MATMUL(cublasGemmEx) MATMUL(cublasSgemm_v2) MATMUL(cublasDgemm_v2)
MATMUL(cublasSgemmStridedBatched) MATMUL(cublasDgemmStridedBatched) MATMUL(cublasGemmStridedBatchedEx)
HANDLE(cublasCreate_v2) HANDLE(cublasLtCreate) HANDLE(cublasLtMatmulDescCreate)
HANDLE(cublasLtMatmulPreferenceCreate) HANDLE(cublasLtMatrixLayoutCreate)
API int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
API int cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
API size_t cublasLtGetVersion() { return 130000; }
struct Heuristic { uint64_t algorithm[8]; size_t workspace; int status; float waves; int reserved[4]; };
API int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, Heuristic* out, int* n) {
  memset(out, 0, sizeof *out); *n = 1; return 0;
}
API size_t cudnnGetVersion() { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion() { return CUDART_VERSION; }
API const char* cudnnGetErrorString(int) { return "pretended"; }
HANDLE(cudnnCreate) HANDLE(cudnnCreateTensorDescriptor) HANDLE(cudnnCreateFilterDescriptor)
HANDLE(cudnnCreateConvolutionDescriptor) HANDLE(cudnnCreateActivationDescriptor)
HANDLE(cudnnCreateDropoutDescriptor)
#define WORKSPACE(name) API int name(void*, int, int, void*, void*, void*, void*, void*, size_t* s) { *s = 1 << 20; return 0; }
WORKSPACE(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize)
API int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void*, int, int, void*, void*, void*, void*, void*, void*, void*, size_t* s) { *s = 1 << 20; return 0; }
API int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void*, int, int, void*, void*, size_t* s) {
  *s = 1 << 20; return 0;
}
API int cudnnBatchNormalizationForwardTrainingEx() { note("kernel", "cudnn batch norm"); return 0; }
API int cudnnBatchNormalizationBackwardEx() { note("kernel", "cudnn batch norm, backward"); return 0; }
API int cudnnBatchNormalizationForwardInference() { note("kernel", "cudnn batch norm"); return 0; }
API int cudnnBackendCreateDescriptor(int, void** p) { *p = calloc(1, 512); return 0; }
API int cudnnBackendDestroyDescriptor(void* p) { free(p); return 0; }
enum Attribute { RESULTS = 202, ENGINE = 300, WORKSPACE_SIZE = 402, ENGINE_NUMBER = 1301 };
API int cudnnBackendGetAttribute(void*, int what, int, int64_t, int64_t* n, void* out) {
  if (n) *n = what == RESULTS || what == ENGINE || what == WORKSPACE_SIZE || what == ENGINE_NUMBER;
  if (out && what == WORKSPACE_SIZE) *(int64_t*)out = 32 << 20;
  if (out && what == ENGINE_NUMBER) *(int64_t*)out = 0;
  return 0;
}
API int cudnnBackendExecute() { note("convolution", "cudnn"); return 0; }

API int ncclGetVersion(int* v) { *v = 22900; return 0; }
API int ncclGetUniqueId(void* id) { memset(id, 1, 128); return 0; }
HANDLE(ncclCommInitRank) HANDLE(ncclCommInitRankConfig) HANDLE(ncclCommInitRankScalable)
API int ncclCommGetAsyncError(void*, int* e) { *e = 0; return 0; }
API const char* ncclGetErrorString(int) { return "pretended"; }
API const char* ncclGetLastError(void*) { return "pretended"; }
API int ncclCommCount(void*, int* n) { *n = cards(); return 0; }
API int ncclMemAlloc(void** p, size_t n) { note("malloc", "nccl", n); return take(p, n, true); }
API int ncclMemFree(void* p) { return drop(p); }
API int ncclCommRegister(void*, void*, size_t, void** handle) { *handle = &world(); return 0; }
API int ncclCommWindowRegister(void*, void*, size_t, void** window) { *window = &world(); return 0; }
API int ncclRedOpCreatePreMulSum(int* op) { *op = 7; return 0; }
static size_t width(int type) { return (size_t[]){1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}[type]; }
#define SENDS(name, what) API int name(const void*, void*, size_t n, int type) { note("nccl", what, n * width(type)); return 0; }
SENDS(ncclAllReduce, "all-reduce") SENDS(ncclBroadcast, "broadcast")
SENDS(ncclAllGather, "all-gather") SENDS(ncclReduceScatter, "reduce-scatter")
