#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>

#include "datasets/error.hpp"
#include "datasets/inspect.hpp"
#include "fmt/format.h"
#include "harness/capture_flags.hpp"
#include "harness/command.hpp"
#include "harness/progress.hpp"
#include "harness/selection.hpp"
#include "nlohmann/json.hpp"
#include "reports/table.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

struct InspectOptions {
  std::vector<std::string> captures;
  std::string layers, timesteps, samples;
  ReaderFlags reader;
  bool cells = false;
  bool as_json = false;
};

struct FileReport {
  std::string file, model, source;
  std::string problem;  ///< why the file cannot be read at all; empty if it can
  std::vector<CellReport> cells;
};

const char* mask_name(const CellInfo& cell) {
  if (!cell.is_causal) return "no mask";
  return cell.causal_align == CausalAlign::top_left ? "causal (top left)" : "causal";
}

const char* layout_name(const CellInfo& cell) {
  return cell.layout == Layout::hnd ? "HND" : "NHD";
}

json to_json(const TensorStats& s, const CellInfo& cell, std::size_t tensor) {
  return {{"path", cell.paths.at(tensor)},
          {"dtype", to_string(cell.dtypes.at(tensor))},
          {"min", s.min},
          {"max", s.max},
          {"mean_over_std", s.bias},
          {"mean_over_std_head", s.bias_head},
          {"mean_over_std_channel", s.bias_channel},
          {"nan", s.nan},
          {"inf", s.inf},
          {"zero_rows", s.zero_rows},
          {"zero_channels", s.zero_channels},
          {"constant_channels", s.constant_channels}};
}

json to_json(const CellReport& cell) {
  json j{{"layer", cell.id.layer},         {"timestep", cell.id.timestep}, {"sample", cell.id.sample},
         {"sound", cell.problems.empty()}, {"problems", cell.problems},    {"warnings", cell.warnings}};
  if (!cell.info) return j;
  const CellInfo& info = *cell.info;
  const Shape& s = info.shape;
  j["layer_name"] = info.layer_name;
  j["timestep_value"] = info.timestep_value;
  if (info.sample_name) j["sample_name"] = *info.sample_name;
  if (info.cfg_branch) j["cfg_branch"] = *info.cfg_branch;
  if (info.seed) j["seed"] = *info.seed;
  j["shape"] = {{"batch", s.batch}, {"q_heads", s.q_heads}, {"kv_heads", s.kv_heads},
                {"q_len", s.q_len}, {"kv_len", s.kv_len},   {"head_dim", s.head_dim}};
  j["layout"] = layout_name(info);
  j["is_causal"] = info.is_causal;
  j["causal_align"] = info.causal_align == CausalAlign::top_left ? "top_left" : "bottom_right";
  j["sm_scale"] = info.sm_scale;
  for (std::size_t t = 0; t < 3; ++t) {
    j["tensors"][to_string(static_cast<TensorName>(t))] = to_json(cell.tensors.at(t), info, t);
  }
  if (cell.output) {
    j["output"] = {{"path", info.output_path},
                   {"rows", cell.output->rows},
                   {"worst_error", cell.output->worst_error},
                   {"proved", cell.output->proved()}};
  }
  return j;
}

json to_json(const FileReport& report) {
  json j{{"file", report.file}, {"model", report.model}, {"source", report.source}, {"cells", json::array()}};
  if (!report.problem.empty()) j["problem"] = report.problem;
  for (const CellReport& cell : report.cells) j["cells"].push_back(to_json(cell));
  return j;
}

/// A positive number in at most four characters.
std::string brief(double x) {
  if (x == 0) return "0";
  if (x < 0.005) return "<.01";
  if (x < 9.995) return fmt::format("{:.2f}", x);
  if (x < 99.95) return fmt::format("{:.1f}", x);
  if (x < 9999.5) return fmt::format("{:.0f}", x);
  std::string text = fmt::format("{:.0e}", x);  // "4e+38"
  text.erase(text.find('+'), text[text.find('+') + 1] == '0' ? 2 : 1);
  return text;
}

/// One line of the table: the largest values of the cells in it.
struct Line {
  std::string layer, name, place;
  std::size_t cells = 0, unsound = 0;
  std::array<double, 3> largest{}, bias{};
  std::size_t described = 0;

  void add(const CellReport& cell) {
    ++cells;
    unsound += cell.problems.empty() ? 0 : 1;
    if (!cell.info) return;
    ++described;
    name = cell.info->layer_name;
    for (std::size_t t = 0; t < 3; ++t) {
      largest.at(t) = std::max(largest.at(t), cell.tensors.at(t).max_abs());
      bias.at(t) = std::max(bias.at(t), cell.tensors.at(t).bias);
    }
  }
};

/// Keeps the end of a long name: layers of one model differ there.
std::string shortened(const std::string& name, std::size_t width) {
  return name.size() <= width ? name : ".." + name.substr(name.size() - width + 2);
}

Table table_of(const std::vector<CellReport>& cells, bool each_cell) {
  std::vector<Line> lines;
  for (const CellReport& cell : cells) {
    const std::string layer = fmt::format("{}", cell.id.layer);
    if (each_cell || lines.empty() || lines.back().layer != layer) {
      Line line;
      line.layer = layer;
      line.place = fmt::format("{}/{}", cell.id.timestep, cell.id.sample);
      lines.push_back(line);
    }
    lines.back().add(cell);
  }
  const std::string magnitude = "largest |x|";
  const std::string spread = "|mean| / std";
  Table table{"",
              {{"layer", Align::right},
               {"name"},
               {each_cell ? "step/sample" : "cells", Align::right},
               {"q", Align::right, magnitude},
               {"k", Align::right, magnitude},
               {"v", Align::right, magnitude},
               {"q", Align::right, spread},
               {"k", Align::right, spread},
               {"v", Align::right, spread},
               {"sound"}},
              {},
              {}};
  for (const Line& line : lines) {
    std::vector<std::string> row{line.layer, shortened(line.name, each_cell ? 16 : 18),
                                 each_cell ? line.place : fmt::format("{}", line.cells)};
    for (const auto& values : {line.largest, line.bias}) {
      for (const double x : values) row.push_back(line.described > 0 ? brief(x) : "-");
    }
    row.push_back(line.unsound == 0 ? "yes" : each_cell ? "NO" : fmt::format("{} bad", line.unsound));
    table.rows.push_back(row);
  }
  return table;
}

/// What cells have in common that are alike but for their numbers.
void print_kinds(const std::vector<CellReport>& cells) {
  std::map<std::string, std::size_t> counts;
  std::vector<std::string> order;
  for (const CellReport& cell : cells) {
    if (!cell.info) continue;
    const CellInfo& info = *cell.info;
    const Shape& s = info.shape;
    const std::string kind = fmt::format(
        "{}, {}, {}, head_dim {}\n    batch {}, {} query heads x {}, {} key/value heads x {}", to_string(info.dtype),
        layout_name(info), mask_name(info), s.head_dim, s.batch, s.q_heads, s.q_len, s.kv_heads, s.kv_len);
    if (counts[kind]++ == 0) order.push_back(kind);
  }
  for (const std::string& kind : order) fmt::print("  {} cells: {}\n", counts[kind], kind);
}

void print_list(const std::vector<std::string>& sentences, const char* title, std::size_t most) {
  if (sentences.empty()) return;
  fmt::print("\n{}:\n", title);
  for (std::size_t i = 0; i < std::min(most, sentences.size()); ++i) fmt::print("  {}\n", sentences[i]);
  if (sentences.size() > most) fmt::print("  and {} more (--json lists them all)\n", sentences.size() - most);
}

void print_outputs(const std::vector<CellReport>& cells) {
  std::size_t proved = 0, rows = 0;
  double worst = 0;
  for (const CellReport& cell : cells) {
    if (!cell.output || !cell.output->proved()) continue;
    ++proved;
    rows += cell.output->rows;
    worst = std::max(worst, cell.output->worst_error);
  }
  if (proved == 0) return;
  fmt::print("layout proved for {} cells: {} rows of the model's own output agree within {:.1e}\n", proved, rows,
             worst);
}

void print_report(const FileReport& report, bool each_cell) {
  fmt::print("{}\n", report.file);
  if (!report.problem.empty()) {
    fmt::print("  unreadable: {}\n", report.problem);
    return;
  }
  if (!report.model.empty()) fmt::print("  model: {}\n", report.model);
  if (!report.source.empty()) fmt::print("  source: {}\n", report.source);
  print_kinds(report.cells);
  fmt::print("\n{}", to_text(table_of(report.cells, each_cell)));
  print_outputs(report.cells);
  std::vector<std::string> problems, warnings;
  for (const CellReport& cell : report.cells) {
    problems.insert(problems.end(), cell.problems.begin(), cell.problems.end());
    warnings.insert(warnings.end(), cell.warnings.begin(), cell.warnings.end());
  }
  print_list(warnings, "Worth knowing", 10);
  print_list(problems, "Not sound", problems.size());
}

FileReport inspect_file(const std::string& file, const InspectOptions& options) {
  FileReport report;
  report.file = file;
  try {
    const CaptureReader reader(file, options.reader.options());
    report.model = reader.model();
    report.source = reader.source();
    const Selection selection{IndexList(options.layers, "--layers"),
                              IndexList(options.timesteps, "--timesteps"),
                              IndexList(options.samples, "--samples"),
                              {}};
    const auto cells = select_cells(reader, selection);
    Progress progress(cells.size());
    for (const CellId& id : cells) {
      report.cells.push_back(inspect_cell(reader, id));
      progress.update(report.cells.size(), report.cells.size(), cell_name(reader, id));
    }
    progress.clear();
  } catch (const DataError& error) {
    report.problem = error.what();
  }
  return report;
}

int run_inspect(const InspectOptions& options) {
  json all = json::array();
  bool sound = true;
  for (std::size_t i = 0; i < options.captures.size(); ++i) {
    const FileReport report = inspect_file(options.captures[i], options);
    sound = sound && report.problem.empty();
    for (const CellReport& cell : report.cells) sound = sound && cell.problems.empty();
    if (options.as_json) {
      all.push_back(to_json(report));
    } else {
      if (i > 0) fmt::print("\n");
      print_report(report, options.cells);
    }
  }
  if (options.as_json) fmt::print("{}\n", all.dump(1, ' ', false, json::error_handler_t::replace));
  return static_cast<int>(sound ? ExitCode::ok : ExitCode::bad_data);
}

}  // namespace

void setup_inspect(CLI::App& app, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  auto* sub = app.add_subcommand("inspect", "Say what is in captures, and whether it is sound (exit code 3 if not)");
  sub->add_option("CAPTURE", options->captures, "Capture files")->required();
  sub->add_flag("--cells", options->cells, "One line a cell instead of one a layer");
  sub->add_flag("--json", options->as_json, "Print everything as JSON");
  sub->add_option("--layers", options->layers, "Only these layers, as 0,2,5-8");
  sub->add_option("--timesteps", options->timesteps, "Only these timesteps");
  sub->add_option("--samples", options->samples, "Only these samples");
  options->reader.add_to(*sub);
  sub->callback([options, &action] { action = [options] { return run_inspect(*options); }; });
}

}  // namespace sage2
