#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

/// Keeps several devices busy within their memory: one thread pushes work, threads of each device take it.
namespace sage2 {

/// What a thread works with on its device; each engine adds its own.
struct Worker {
  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  virtual ~Worker() = default;
};

/// A piece of work: first prepared on one device, then its parts run there, in any order and at once. It is destroyed
/// when its last part has run.
class Work {
 public:
  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  virtual ~Work() = default;

  std::size_t host_bytes = 0;              ///< held until it is prepared
  std::size_t resident_bytes = 0;          ///< device memory held from its preparation to its end
  std::vector<std::size_t> scratch_bytes;  ///< device memory of each part while it runs; at least one part

  virtual void prepare(Worker& worker) = 0;
  virtual void run_part(Worker& worker, std::size_t part) = 0;
};

/// Work is prepared in the order in which it was pushed, on whichever device has room, and earlier work's parts run
/// before later work is prepared. A device holds as much at once as its memory takes, and always at least one piece and
/// one part of it, however large. The first error ends everything.
class WorkQueue {
 public:
  /// `host_bytes`: work that waits to be prepared holds at most so much together, or is a single piece.
  WorkQueue(std::vector<std::size_t> device_bytes, std::size_t host_bytes);

  /// Waits until there is room. Throws the error that ended the work, if there was one.
  void push(std::unique_ptr<Work> work);

  /// A thread of a device: works until everything is done after `close`, or until an error, which it records.
  void work(std::size_t device, Worker& worker);

  /// Nothing more will be pushed.
  void close();
  /// Ends everything: what runs is finished, nothing new begins. The first error is the one that counts.
  void fail(std::exception_ptr error);
  /// Throws the error that ended the work, if there was one.
  void rethrow();

 private:
  /// Work on a device.
  struct Held {
    std::unique_ptr<Work> work;
    std::vector<std::size_t> scratch;  ///< of each part
    std::size_t next_part = 0;
    std::size_t unfinished = 0;
    bool ready = false;
  };
  struct Device {
    std::size_t bytes = 0;
    std::size_t in_use = 0;    ///< resident and running scratch
    std::size_t resident = 0;  ///< of that, resident
    std::size_t running = 0;   ///< parts
    std::deque<std::shared_ptr<Held>> held;
  };

  [[nodiscard]] std::shared_ptr<Held> part_to_run(Device& device);
  [[nodiscard]] bool has_room(const Device& device, const Work& work) const;
  /// One step of a thread, with the lock held; false where there is nothing to do now.
  bool step(Device& device, Worker& worker, std::unique_lock<std::mutex>& lock);
  void prepare(Device& device, Worker& worker, std::unique_lock<std::mutex>& lock);
  void run(Device& device, Worker& worker, const std::shared_ptr<Held>& held, std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Device> devices_;
  std::deque<std::unique_ptr<Work>> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::size_t host_bytes_;
  bool closed_ = false;
  std::exception_ptr error_;
};

}  // namespace sage2
