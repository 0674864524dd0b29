#pragma once

#include <memory>
#include <optional>
#include <string>

/// What a GPU is doing while it is measured, from the driver's management library (NVML), which is looked for at run
/// time: where it is absent nothing is known.
namespace sage2 {

struct GpuState {
  unsigned sm_clock_mhz = 0;
  unsigned memory_clock_mhz = 0;
  unsigned temperature_c = 0;
  double power_w = 0;
};

class GpuMonitor {
 public:
  /// bus_id: "0000:3b:00.0", as CUDA prints it.
  explicit GpuMonitor(const std::string& bus_id);
  ~GpuMonitor();
  GpuMonitor(const GpuMonitor&) = delete;
  GpuMonitor& operator=(const GpuMonitor&) = delete;
  GpuMonitor(GpuMonitor&&) = delete;
  GpuMonitor& operator=(GpuMonitor&&) = delete;

  [[nodiscard]] std::optional<GpuState> state() const;
  [[nodiscard]] const std::string& driver() const { return driver_; }  ///< "580.95.05", "" where unknown
  [[nodiscard]] const std::string& uuid() const { return uuid_; }
  [[nodiscard]] unsigned most_sm_clock_mhz() const { return most_sm_clock_mhz_; }
  [[nodiscard]] double power_limit_w() const { return power_limit_w_; }

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  void* device_ = nullptr;
  std::string driver_, uuid_;
  unsigned most_sm_clock_mhz_ = 0;
  double power_limit_w_ = 0;
};

}  // namespace sage2
