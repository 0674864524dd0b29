#include "harness/capture_flags.hpp"

namespace sage2 {

void ReaderFlags::add_to(CLI::App& sub) {
  const char* const group = "Foreign layouts";
  sub.add_option("--path", path, "Path of the datasets, with {layer}, {timestep}, {sample}, {tensor}")->group(group);
  sub.add_option("--layout", layout, "Order of axes where the file does not say")
      ->check(CLI::IsMember({"HND", "NHD"}))
      ->group(group);
  sub.add_option("--mask", mask, "Mask where the file does not say")
      ->check(CLI::IsMember({"none", "causal"}))
      ->group(group);
  sub.add_option("--sm-scale", sm_scale, "Softmax scale where the file does not say (default 1/sqrt(head_dim))")
      ->check(CLI::PositiveNumber)
      ->group(group);
}

ReaderOptions ReaderFlags::options() const {
  ReaderOptions o;
  o.path_template = path;
  if (!layout.empty()) o.layout = layout == "NHD" ? Layout::nhd : Layout::hnd;
  if (!mask.empty()) o.is_causal = mask == "causal";
  if (sm_scale > 0) o.sm_scale = static_cast<float>(sm_scale);
  return o;
}

}  // namespace sage2
