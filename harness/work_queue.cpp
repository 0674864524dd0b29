#include "harness/work_queue.hpp"

#include <algorithm>

namespace sage2 {
namespace {

std::size_t largest(const std::vector<std::size_t>& bytes) {
  return *std::max_element(bytes.begin(), bytes.end());
}

}  // namespace

WorkQueue::WorkQueue(std::vector<std::size_t> device_bytes, std::size_t host_bytes)
    : devices_(device_bytes.size()), host_bytes_(host_bytes) {
  for (std::size_t i = 0; i < device_bytes.size(); ++i) devices_[i].bytes = device_bytes[i];
}

void WorkQueue::push(std::unique_ptr<Work> work) {
  std::unique_lock lock(mutex_);
  changed_.wait(
      lock, [&] { return error_ != nullptr || waiting_.empty() || waiting_bytes_ + work->host_bytes <= host_bytes_; });
  if (error_ != nullptr) std::rethrow_exception(error_);
  waiting_bytes_ += work->host_bytes;
  waiting_.push_back(std::move(work));
  changed_.notify_all();
}

void WorkQueue::work(std::size_t device, Worker& worker) {
  std::unique_lock lock(mutex_);
  auto& mine = devices_.at(device);
  const auto finished = [&] { return error_ != nullptr || (closed_ && waiting_.empty() && mine.held.empty()); };
  while (!finished()) {
    try {
      if (!step(mine, worker, lock)) changed_.wait(lock);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      if (error_ == nullptr) error_ = std::current_exception();
    }
  }
  changed_.notify_all();
}

bool WorkQueue::step(Device& device, Worker& worker, std::unique_lock<std::mutex>& lock) {
  if (const auto held = part_to_run(device)) {
    run(device, worker, held, lock);
    return true;
  }
  if (waiting_.empty() || !has_room(device, *waiting_.front())) return false;
  prepare(device, worker, lock);
  return true;
}

/// The earliest part that may start: it fits beside what runs, or nothing runs.
std::shared_ptr<WorkQueue::Held> WorkQueue::part_to_run(Device& device) {
  for (const auto& held : device.held) {
    if (!held->ready || held->next_part == held->scratch.size()) continue;
    const auto scratch = held->scratch[held->next_part];
    if (device.running == 0 || device.in_use + scratch <= device.bytes) return held;
    return nullptr;  // later work waits its turn
  }
  return nullptr;
}

/// Whatever is held, its largest part must still be able to run alone.
bool WorkQueue::has_room(const Device& device, const Work& work) const {
  if (device.held.empty()) return true;
  auto peak = largest(work.scratch_bytes);
  for (const auto& held : device.held) peak = std::max(peak, largest(held->scratch));
  return device.resident + work.resident_bytes + peak <= device.bytes &&
         device.in_use + work.resident_bytes <= device.bytes;
}

void WorkQueue::prepare(Device& device, Worker& worker, std::unique_lock<std::mutex>& lock) {
  auto held = std::make_shared<Held>();
  held->work = std::move(waiting_.front());
  waiting_.pop_front();
  auto& work = *held->work;
  held->scratch = work.scratch_bytes;
  held->unfinished = held->scratch.size();
  device.resident += work.resident_bytes;
  device.in_use += work.resident_bytes;
  device.held.push_back(held);
  lock.unlock();
  work.prepare(worker);
  lock.lock();
  held->ready = true;
  waiting_bytes_ -= work.host_bytes;
  changed_.notify_all();
}

void WorkQueue::run(Device& device, Worker& worker, const std::shared_ptr<Held>& held,
                    std::unique_lock<std::mutex>& lock) {
  const auto part = held->next_part++;
  device.in_use += held->scratch[part];
  ++device.running;
  lock.unlock();
  held->work->run_part(worker, part);
  lock.lock();
  device.in_use -= held->scratch[part];
  --device.running;
  if (--held->unfinished == 0) {
    const auto resident = held->work->resident_bytes;
    lock.unlock();
    held->work.reset();  // gives its memory back before it is counted as free
    lock.lock();
    device.resident -= resident;
    device.in_use -= resident;
    device.held.erase(std::find(device.held.begin(), device.held.end(), held));
  }
  changed_.notify_all();
}

void WorkQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void WorkQueue::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (error_ == nullptr) error_ = std::move(error);
  changed_.notify_all();
}

void WorkQueue::rethrow() {
  const std::lock_guard lock(mutex_);
  if (error_ != nullptr) std::rethrow_exception(error_);
}

}  // namespace sage2
