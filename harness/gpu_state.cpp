#include "harness/gpu_state.hpp"

#include <dlfcn.h>

#include <array>

namespace sage2 {

/// The few functions of libnvidia-ml.so.1 that are used; all return 0 for success.
struct GpuMonitor::Library {
  void* handle = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*device)(const char* bus_id, void** device) = nullptr;
  int (*driver)(char* text, unsigned length) = nullptr;
  int (*uuid)(void* device, char* text, unsigned length) = nullptr;
  int (*clock)(void* device, int which, unsigned* mhz) = nullptr;
  int (*most_clock)(void* device, int which, unsigned* mhz) = nullptr;
  int (*temperature)(void* device, int sensor, unsigned* celsius) = nullptr;
  int (*power)(void* device, unsigned* milliwatts) = nullptr;
  int (*power_limit)(void* device, unsigned* milliwatts) = nullptr;

  template <class F>
  bool load(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(handle, name));
    return function != nullptr;
  }
  bool load_all() {
    handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    return handle != nullptr && load(init, "nvmlInit_v2") && load(shutdown, "nvmlShutdown") &&
           load(device, "nvmlDeviceGetHandleByPciBusId_v2") && load(driver, "nvmlSystemGetDriverVersion") &&
           load(uuid, "nvmlDeviceGetUUID") && load(clock, "nvmlDeviceGetClockInfo") &&
           load(most_clock, "nvmlDeviceGetMaxClockInfo") && load(temperature, "nvmlDeviceGetTemperature") &&
           load(power, "nvmlDeviceGetPowerUsage") && load(power_limit, "nvmlDeviceGetEnforcedPowerLimit") &&
           init() == 0;
  }
};

namespace {
constexpr int kSmClock = 1;      // NVML_CLOCK_SM
constexpr int kMemoryClock = 2;  // NVML_CLOCK_MEM
}  // namespace

GpuMonitor::GpuMonitor(const std::string& bus_id) : library_(std::make_unique<Library>()) {
  Library& nvml = *library_;
  if (!nvml.load_all() || nvml.device(bus_id.c_str(), &device_) != 0) {
    device_ = nullptr;
    return;
  }
  std::array<char, 96> text{};
  if (nvml.driver(text.data(), text.size()) == 0) driver_ = text.data();
  if (nvml.uuid(device_, text.data(), text.size()) == 0) uuid_ = text.data();
  (void)nvml.most_clock(device_, kSmClock, &most_sm_clock_mhz_);
  unsigned milliwatts = 0;
  if (nvml.power_limit(device_, &milliwatts) == 0) power_limit_w_ = milliwatts * 1e-3;
}

GpuMonitor::~GpuMonitor() {
  if (device_ != nullptr) (void)library_->shutdown();
  if (library_->handle != nullptr) (void)dlclose(library_->handle);
}

std::optional<GpuState> GpuMonitor::state() const {
  if (device_ == nullptr) return std::nullopt;
  GpuState s;
  unsigned milliwatts = 0;
  if (library_->clock(device_, kSmClock, &s.sm_clock_mhz) != 0) return std::nullopt;
  (void)library_->clock(device_, kMemoryClock, &s.memory_clock_mhz);
  (void)library_->temperature(device_, 0, &s.temperature_c);
  if (library_->power(device_, &milliwatts) == 0) s.power_w = milliwatts * 1e-3;
  return s;
}

}  // namespace sage2
