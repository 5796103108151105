#include "driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace crucible {
namespace {

// Of cuda.h, which is not needed to build this: https://docs.nvidia.com/cuda/cuda-driver-api
using Status = int;
constexpr Status kSuccess = 0;
constexpr int kMaxDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kRelaxed = 2;           // CU_STREAM_CAPTURE_MODE_RELAXED

struct Driver {
  Status (*cuGetErrorString)(Status, const char**);
  Status (*cuCtxGetDevice)(int*);
  Status (*cuCtxPushCurrent)(void*);
  Status (*cuCtxPopCurrent)(void**);
  Status (*cuDevicePrimaryCtxRetain)(void**, int);
  Status (*cuThreadExchangeStreamCaptureMode)(int*);
  Status (*cuLibraryLoadData)(void**, const void*, int*, void**, unsigned, int*, void**, unsigned);
  Status (*cuLibraryGetKernel)(void**, void*, const char*);
  Status (*cuKernelSetAttribute)(int, int, void*, int);
  Status (*cuLaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                           unsigned, void*, void**, void**);
};

Driver open_driver() {
  void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(std::string("no CUDA driver: ") + dlerror());
  Driver driver{};
  const auto find = [handle](auto& function, const char* name) {
    void* found = dlsym(handle, name);
    if (found == nullptr) {
      throw std::runtime_error(std::string("the CUDA driver has no ") + name +
                               "; one for CUDA 12 or later is needed");
    }
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
  };
  find(driver.cuGetErrorString, "cuGetErrorString");
  find(driver.cuCtxGetDevice, "cuCtxGetDevice");
  find(driver.cuCtxPushCurrent, "cuCtxPushCurrent_v2");
  find(driver.cuCtxPopCurrent, "cuCtxPopCurrent_v2");
  find(driver.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
  find(driver.cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode");
  find(driver.cuLibraryLoadData, "cuLibraryLoadData");
  find(driver.cuLibraryGetKernel, "cuLibraryGetKernel");
  find(driver.cuKernelSetAttribute, "cuKernelSetAttribute");
  find(driver.cuLaunchKernel, "cuLaunchKernel");
  return driver;
}

const Driver& driver() {
  static const Driver opened = open_driver();
  return opened;
}

void check(Status status, const char* doing, const Cubin& cubin) {
  if (status == kSuccess) return;
  const char* said = nullptr;
  driver().cuGetErrorString(status, &said);
  throw std::runtime_error(std::string(cubin.kernel) + " for sm_" +
                           std::to_string(cubin.architecture) + ": could not " + doing + ": " +
                           (said != nullptr ? said : "error " + std::to_string(status)));
}

// The device's own context is this thread's while it lives. torch's usually is already.
class OnDevice {
 public:
  OnDevice(int device, const Cubin& cubin) {
    int now = -1;
    if (driver().cuCtxGetDevice(&now) == kSuccess && now == device) return;
    check(driver().cuCtxPushCurrent(primary(device, cubin)), "make its device current", cubin);
    pushed_ = true;
  }
  ~OnDevice() {
    void* popped = nullptr;
    if (pushed_) driver().cuCtxPopCurrent(&popped);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  // Retained once, as torch does, for the life of the process.
  static void* primary(int device, const Cubin& cubin) {
    static std::mutex mutex;
    static std::map<int, void*> known;
    const std::lock_guard<std::mutex> lock(mutex);
    void*& context = known[device];
    if (context == nullptr) {
      check(driver().cuDevicePrimaryCtxRetain(&context, device), "open its device", cubin);
    }
    return context;
  }

  bool pushed_ = false;
};

// Loading may allocate, which a thread that captures a graph may do in this mode only.
class Loading {
 public:
  Loading() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  ~Loading() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

 private:
  int mode_ = kRelaxed;
};

// The kernel of a cubin, loaded once, and set up once for each device.
void* kernel_of(const Cubin& cubin, const unsigned char* image, int device) {
  static std::mutex mutex;
  static std::map<const Cubin*, void*> loaded;
  static std::map<std::pair<const Cubin*, int>, void*> ready;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& kernel = ready[{&cubin, device}];
  if (kernel != nullptr) return kernel;
  const Loading loading;
  void*& known = loaded[&cubin];
  if (known == nullptr) {
    void* library = nullptr;
    check(driver().cuLibraryLoadData(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "load its cubin", cubin);
    check(driver().cuLibraryGetKernel(&known, library, cubin.symbol), "find it", cubin);
  }
  check(driver().cuKernelSetAttribute(kMaxDynamicShared, static_cast<int>(cubin.shared), known,
                                      device),
        ("have " + std::to_string(cubin.shared) + " bytes of shared memory").c_str(), cubin);
  return kernel = known;
}

}  // namespace

void launch_cubin(const Cubin& cubin, const unsigned char* image, int device,
                  const std::array<unsigned, 3>& grid, void* stream,
                  std::vector<std::uint64_t> arguments) {
  const OnDevice on_device(device, cubin);
  void* kernel = kernel_of(cubin, image, device);
  // Triton's kernels end with two pointers to scratch memory that ours do not use.
  arguments.insert(arguments.end(), 2, 0);
  std::vector<void*> places;
  places.reserve(arguments.size());
  for (std::uint64_t& argument : arguments) places.push_back(&argument);
  const std::string launched = "launch " + std::to_string(grid[0]) + " x " +
                               std::to_string(grid[1]) + " x " + std::to_string(grid[2]) +
                               " blocks";
  check(driver().cuLaunchKernel(kernel, grid[0], grid[1], grid[2], cubin.threads, 1, 1,
                                cubin.shared, stream, places.data(), nullptr),
        launched.c_str(), cubin);
}

}  // namespace crucible
