#include "harness/verify.hpp"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"
#include "reports/table.hpp"

namespace sage2 {
namespace {

constexpr double kLeastSame = 0.999;
constexpr std::uint32_t kMostUlp = 1;
constexpr double kMostFidelity = 1e-3;           // of the quantisation error
constexpr std::uint64_t kValuesOfACase = 10000;  // below, one value is more than a tenth of what the gate allows
constexpr std::size_t kMostFaults = 20;          // that are printed
constexpr std::size_t kNameWidth = 34;           // what 80 columns leave
constexpr std::size_t kInstructionWidth = 54;

/// "head 3, row 17, channel 5: 0.25, expected 0.5".
std::string worst_place(const CaseFinding& found) {
  const auto& a = found.agreement;
  const auto row = a.worst_at / found.row_length;
  return fmt::format("{}: head {}, row {}, channel {}: {}, expected {}", found.place, row / found.rows,
                     row % found.rows, a.worst_at % found.row_length, a.worst_found, a.worst_expected);
}

std::string percent(double share) {
  // Rounded down: 100 means all of them.
  return share == 1.0 ? "100" : fmt::format("{:.2f}", std::floor(share * 1e4) / 1e2);
}

/// A name of more than `width` characters is broken at its commas, colons and blanks, and takes several lines.
void add_row(Table& table, std::string name, std::size_t width, std::vector<std::string> cells) {
  const std::vector<std::string> blanks(cells.size());
  while (name.size() > width) {
    const auto mark = name.find_last_of(",: ", width - 1);
    const auto end = mark == std::string::npos || mark < 2 ? width : mark + 1;
    auto& line = table.rows.emplace_back(blanks);
    line.insert(line.begin(), name.substr(0, end));
    const auto next = name.find_first_not_of(' ', end);
    name = next == std::string::npos ? "" : "  " + name.substr(next);
  }
  cells.insert(cells.begin(), std::move(name));
  table.rows.push_back(std::move(cells));
}

Table native_table(const Verification& verification, const std::string& engine, const char* title) {
  Table table{title,
              {{"variant"},
               {"cases", Align::right},
               {"BF16", Align::right, "same, %"},
               {"FP32", Align::right, "same, %"},
               {"ulp", Align::right},
               {"quant.", Align::right, "relative L1"},
               {"fidelity", Align::right, "relative L1"}},
              {},
              {"ulp: largest difference in units of the last place of BF16. quant.: from the",
               "FP64 reference. fidelity: "
               "from the emulation."}};
  for (const auto& v : verification.variants) {
    if (v.engine != engine) continue;
    add_row(table, v.variant, kNameWidth,
            {fmt::format("{}", v.cases), percent(v.agreement.share_bf16()), percent(v.agreement.share_fp32()),
             fmt::format("{}", v.agreement.worst_ulp), fmt::format("{:.1e}", v.quantisation.rel_l1()),
             fmt::format("{:.1e}", v.agreement.rel_l1())});
  }
  return table;
}

Table emulated_table(const Verification& verification) {
  Table table{"Emulation on the GPU against the emulation on the CPU",
              {{"variant"},
               {"cases", Align::right},
               {"values", Align::right},
               {"same, %", Align::right},
               {"other counts", Align::right}},
              {},
              {}};
  for (const auto& v : verification.variants) {
    if (v.engine != "emulated" || v.cases == 0) continue;
    add_row(table, v.variant, kNameWidth,
            {fmt::format("{}", v.cases), fmt::format("{}", v.agreement.values), percent(v.agreement.share_fp32()),
             fmt::format("{}", v.other_counts)});
  }
  return table;
}

Table accumulator_table(const Verification& verification) {
  Table table{"Tensor cores against their model",
              {{"instruction"}, {"compared", Align::right}, {"different", Align::right}},
              {},
              {}};
  for (const auto& a : verification.accumulators) {
    add_row(table, a.instruction, kInstructionWidth, {fmt::format("{}", a.compared), fmt::format("{}", a.mismatches)});
  }
  return table;
}

}  // namespace

void add_case(VerifiedVariant& variant, const CaseFinding& found) {
  const auto& a = found.agreement;
  const auto fault = [&](const std::string& what) {
    variant.faults.push_back(fmt::format("{} ({}): {}; {}", variant.variant, variant.engine, what, worst_place(found)));
  };
  if (variant.engine == "native") {
    if (a.nonfinite > 0) fault(fmt::format("{} values are not finite", a.nonfinite));
    if (!(a.worst_ulp <= kMostUlp)) fault(fmt::format("{} ulp apart", a.worst_ulp));
    if (a.values >= kValuesOfACase) {
      if (!(a.share_bf16() >= kLeastSame)) fault(fmt::format("only {}% equal as BF16", percent(a.share_bf16())));
      if (!(a.rel_l1() <= kMostFidelity * found.quantisation.rel_l1())) {
        fault(fmt::format("fidelity error {:.2e} beside a quantisation error of {:.2e}", a.rel_l1(),
                          found.quantisation.rel_l1()));
      }
    }
  } else if (variant.engine == "fast") {
    if (a.nonfinite > 0) fault(fmt::format("{} values are not finite", a.nonfinite));
    if (a.values >= kValuesOfACase && !(a.rel_l1() <= kMostFidelity * found.quantisation.rel_l1())) {
      fault(fmt::format("fidelity error {:.2e} beside a quantisation error of {:.2e}", a.rel_l1(),
                        found.quantisation.rel_l1()));
    }
  } else if (!(a.same_fp32 == a.values)) {
    fault(fmt::format("{} of {} values differ from the {}'s", a.values - a.same_fp32, a.values,
                      variant.engine == "emulated" ? "CPU" : "emulation"));
  }
  const auto counts = variant.engine == "native" ? found.other_totals : found.other_counts;
  if (counts > 0) {
    variant.faults.push_back(
        fmt::format("{} ({}): counts of {} heads differ; {}", variant.variant, variant.engine, counts, found.place));
  }
  ++variant.cases;
  variant.agreement.merge(a);
  variant.quantisation.merge(found.quantisation);
  variant.other_counts += found.other_counts;
}

void conclude(VerifiedVariant& variant) {
  if (variant.engine != "native" || variant.cases == 0) return;
  const auto& a = variant.agreement;
  const auto fault = [&](const std::string& what) {
    variant.faults.push_back(fmt::format("{} (native), all cases: {}", variant.variant, what));
  };
  if (!(a.share_bf16() >= kLeastSame)) fault(fmt::format("only {}% equal as BF16", percent(a.share_bf16())));
  if (!(a.rel_l1() <= kMostFidelity * variant.quantisation.rel_l1())) {
    fault(fmt::format("fidelity error {:.2e} beside a quantisation error of {:.2e}", a.rel_l1(),
                      variant.quantisation.rel_l1()));
  }
}

bool Verification::passed() const {
  return std::all_of(variants.begin(), variants.end(), [](const VerifiedVariant& v) { return v.faults.empty(); }) &&
         std::all_of(accumulators.begin(), accumulators.end(),
                     [](const VerifiedAccumulator& a) { return a.mismatches == 0; });
}

std::string verification_text(const Verification& verification) {
  std::string text = fmt::format("{}, {} cases\n\n", verification.device, verification.cases);
  for (const auto& table :
       {native_table(verification, "native", "Native kernels against the emulation"),
        native_table(verification, "borrowed", "Other chips' sums on these tensor cores, against the emulation"),
        native_table(verification, "fast", "Fast kernels and fused preparation (libsage2) against the emulation"),
        emulated_table(verification), accumulator_table(verification)}) {
    if (!table.rows.empty()) text += to_text(table) + "\n";
  }
  const auto native = [](const VerifiedVariant& v) { return v.engine == "native"; };
  if (std::none_of(verification.variants.begin(), verification.variants.end(), native))
    text += "No variant runs natively here.\n";
  for (const auto& a : verification.accumulators) {
    if (a.mismatches > 0) text += fmt::format("FAULT {}: model {}: {}\n", a.instruction, a.model, a.first_mismatch);
  }
  std::size_t faults = 0;
  for (const auto& v : verification.variants) {
    for (const auto& fault : v.faults) {
      if (faults++ < kMostFaults) text += fmt::format("FAULT {}\n", fault);
    }
  }
  if (faults > kMostFaults) text += fmt::format("... and {} more (--json lists all)\n", faults - kMostFaults);
  return text + (verification.passed() ? "Verified.\n" : "Not verified.\n");
}

nlohmann::json verification_json(const Verification& verification) {
  using nlohmann::json;
  json j{{"device", verification.device},
         {"cases", verification.cases},
         {"passed", verification.passed()},
         {"variants", json::array()},
         {"accumulators", json::array()}};
  for (const auto& v : verification.variants) {
    const auto& a = v.agreement;
    json row{{"variant", v.variant},
             {"engine", v.engine},
             {"cases", v.cases},
             {"values", a.values},
             {"same_bf16", a.same_bf16},
             {"same_fp32", a.same_fp32},
             {"nonfinite", a.nonfinite},
             {"worst_ulp_bf16", a.worst_ulp},
             {"fidelity_rel_l1", a.rel_l1()},
             {"heads_with_other_counts", v.other_counts},
             {"faults", v.faults}};
    if (v.engine != "emulated") row["quantisation_rel_l1"] = v.quantisation.rel_l1();
    j["variants"].push_back(std::move(row));
  }
  for (const auto& a : verification.accumulators) {
    j["accumulators"].push_back({{"instruction", a.instruction},
                                 {"model", a.model},
                                 {"compared", a.compared},
                                 {"mismatches", a.mismatches},
                                 {"first_mismatch", a.first_mismatch}});
  }
  return j;
}

}  // namespace sage2
