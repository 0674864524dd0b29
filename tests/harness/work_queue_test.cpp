#include "harness/work_queue.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>

namespace sage2 {
namespace {

/// What a device holds, as the fake work below uses it.
struct FakeDevice {
  std::atomic<std::size_t> in_use{0}, held{0}, running{0};
  std::atomic<std::size_t> most{0}, most_running{0};
  std::size_t bytes = 0;

  void take(std::size_t amount) {
    const auto now = in_use += amount;
    for (auto seen = most.load(); now > seen && !most.compare_exchange_weak(seen, now);) {
    }
  }
  void ran() {
    const auto now = running.load();
    for (auto seen = most_running.load(); now > seen && !most_running.compare_exchange_weak(seen, now);) {
    }
  }
};

struct FakeWorker : Worker {
  explicit FakeWorker(FakeDevice& d) : device(d) {}
  FakeDevice& device;
};

struct Log {
  std::mutex mutex;
  std::vector<int> prepared;
  std::multiset<std::pair<int, std::size_t>> parts;
};

class FakeWork : public Work {
 public:
  FakeWork(Log& log, int id, std::size_t resident, std::vector<std::size_t> scratch, int fail_at = -1)
      : log_(log), id_(id), fail_at_(fail_at) {
    host_bytes = 1;
    resident_bytes = resident;
    scratch_bytes = std::move(scratch);
  }
  ~FakeWork() override {
    if (device_ != nullptr) {
      device_->in_use -= resident_bytes;
      --device_->held;
    }
  }
  void prepare(Worker& worker) override {
    {
      const std::lock_guard lock(log_.mutex);
      log_.prepared.push_back(id_);
    }
    device_ = &dynamic_cast<FakeWorker&>(worker).device;
    device_->take(resident_bytes);
    ++device_->held;
  }
  void run_part(Worker& worker, std::size_t part) override {
    auto& device = dynamic_cast<FakeWorker&>(worker).device;
    EXPECT_EQ(&device, device_);  // parts run where the work was prepared
    if (static_cast<int>(part) == fail_at_) throw std::runtime_error("part failed");
    device.take(scratch_bytes[part]);
    ++device.running;
    device.ran();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    --device.running;
    device.in_use -= scratch_bytes[part];
    const std::lock_guard lock(log_.mutex);
    log_.parts.insert({id_, part});
  }

 private:
  Log& log_;
  int id_;
  int fail_at_;
  FakeDevice* device_ = nullptr;
};

/// Threads that take from a queue, joined at the end.
class Crew {
 public:
  Crew(WorkQueue& queue, std::vector<FakeDevice>& devices, int threads_each) {
    for (std::size_t d = 0; d < devices.size(); ++d) {
      for (int i = 0; i < threads_each; ++i) {
        threads_.emplace_back([&queue, d, &device = devices[d]] {
          FakeWorker worker(device);
          queue.work(d, worker);
        });
      }
    }
  }
  void join() { threads_.clear(); }

 private:
  std::vector<std::jthread> threads_;
};

TEST(WorkQueue, RunsEveryPartOnceWithinEachDevicesMemory) {
  constexpr int kWorks = 200;
  std::vector<FakeDevice> devices(2);
  devices[0].bytes = 1000;
  devices[1].bytes = 600;
  WorkQueue queue({1000, 600}, 8);
  Log log;
  Crew crew(queue, devices, 4);
  std::mt19937_64 random(1);
  std::multiset<std::pair<int, std::size_t>> expected;
  for (int id = 0; id < kWorks; ++id) {
    std::vector<std::size_t> scratch(1 + random() % 6);
    for (auto& s : scratch) s = 1 + random() % 300;
    for (std::size_t part = 0; part < scratch.size(); ++part) expected.insert({id, part});
    queue.push(std::make_unique<FakeWork>(log, id, random() % 300, scratch));
  }
  queue.close();
  crew.join();
  queue.rethrow();
  EXPECT_EQ(log.parts, expected);
  EXPECT_EQ(log.prepared.size(), static_cast<std::size_t>(kWorks));
  EXPECT_TRUE(std::is_sorted(log.prepared.begin(), log.prepared.end()) || devices[1].most > 0);
  for (const auto& device : devices) {
    EXPECT_LE(device.most, device.bytes);
    EXPECT_EQ(device.in_use, 0U);
    EXPECT_EQ(device.held, 0U);
    EXPECT_GT(device.most_running, 1U);  // something ran at the same time
  }
}

/// What needs more than there is runs alone, and what comes behind it is not stuck.
TEST(WorkQueue, WorkLargerThanADeviceRunsAlone) {
  std::vector<FakeDevice> devices(1);
  WorkQueue queue({100}, 100);
  Log log;
  for (int id = 0; id < 6; ++id) {
    queue.push(std::make_unique<FakeWork>(log, id, id % 2 == 0 ? 500 : 10, std::vector<std::size_t>{400, 5, 400}));
  }
  queue.close();
  Crew crew(queue, devices, 3);
  crew.join();
  queue.rethrow();
  EXPECT_EQ(log.parts.size(), 18U);
  EXPECT_EQ(log.prepared, (std::vector<int>{0, 1, 2, 3, 4, 5}));
  // The large work, one of its large parts, and nothing but a small part beside it.
  EXPECT_LE(devices[0].most, 900U);
}

TEST(WorkQueue, TheFirstErrorEndsEverythingAndReachesThePusher) {
  std::vector<FakeDevice> devices(2);
  WorkQueue queue({100, 100}, 2);
  Log log;
  Crew crew(queue, devices, 2);
  const auto push_all = [&] {
    for (int id = 0; id < 1000; ++id) {
      queue.push(std::make_unique<FakeWork>(log, id, 1, std::vector<std::size_t>{1, 1}, id == 20 ? 1 : -1));
    }
    queue.close();
    crew.join();
    queue.rethrow();
  };
  EXPECT_THROW(push_all(), std::runtime_error);
  crew.join();
  EXPECT_LT(log.prepared.size(), 1000U);
  EXPECT_EQ(log.parts.count({20, 1}), 0U);
}

TEST(WorkQueue, EndsWithoutWork) {
  std::vector<FakeDevice> devices(1);
  WorkQueue queue({100}, 1);
  Crew crew(queue, devices, 3);
  queue.close();
  crew.join();
  queue.rethrow();
}

TEST(WorkQueue, ThePusherWaitsWhileEnoughIsWaiting) {
  std::vector<FakeDevice> devices(1);
  WorkQueue queue({100}, 2);
  Log log;
  std::atomic<int> pushed{0};
  std::jthread pusher([&] {
    for (int id = 0; id < 5; ++id) {
      queue.push(std::make_unique<FakeWork>(log, id, 1, std::vector<std::size_t>{1}));
      ++pushed;
    }
    queue.close();
  });
  while (pushed < 2) std::this_thread::yield();
  EXPECT_EQ(pushed, 2);  // there is nobody to take any
  Crew crew(queue, devices, 1);
  pusher.join();
  crew.join();
  EXPECT_EQ(log.parts.size(), 5U);
}

}  // namespace
}  // namespace sage2
