#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/command.hpp"
#include "harness/plot_script.hpp"
#include "harness/selection.hpp"
#include "reports/detail_tables.hpp"
#include "reports/html_page.hpp"
#include "reports/plot_data.hpp"
#include "reports/report.hpp"
#include "reports/report_document.hpp"

namespace sage2 {
namespace {

namespace fs = std::filesystem;

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out;
  std::vector<std::string> formats{"md", "tex", "csv", "json", "svg", "pdf", "html"};
  std::vector<std::string> metrics{"rel_l1"};
  std::vector<std::string> variants;
  std::vector<std::string> difference;
  std::string layers, map, bench;
  bool published = false;
};

/// Writes files below one folder and says so; a file is complete or not there.
class Output {
 public:
  explicit Output(fs::path folder) : folder_(std::move(folder)) { make(folder_); }

  void write(const std::string& name, const std::string& text) {
    const auto path = folder_ / name;
    make(path.parent_path());
    const auto partial = path.string() + ".part";
    std::ofstream out(partial, std::ios::binary);
    out << text << std::flush;
    std::error_code error;
    if (out) fs::rename(partial, path, error);
    if (!out || error) {
      fs::remove(partial, error);
      throw DataError(fmt::format("{}: cannot be written", path.string()));
    }
    names_.push_back(name);
  }

  [[nodiscard]] const fs::path& folder() const { return folder_; }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

 private:
  static void make(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw DataError(fmt::format("{}: cannot be made: {}", folder.string(), error.message()));
  }
  fs::path folder_;
  std::vector<std::string> names_;
};

Report load(const ReportOptions& options) {
  ReportSelection selection;
  selection.variants = options.variants;
  selection.layer = [layers = IndexList(options.layers, "--layers")](int layer) { return layers.contains(layer); };
  Report report = load_report({options.runs.begin(), options.runs.end()}, selection);
  report.published = options.published;
  report.metrics.clear();
  for (const auto& name : options.metrics) report.metrics.push_back(&metric_info(name));
  if (!options.map.empty()) report.map = read_map(options.map);
  if (!options.bench.empty()) report.bench = read_bench(options.bench);
  if (!options.difference.empty()) {
    report.difference = {resolve_variant(report, options.difference[0]),
                         resolve_variant(report, options.difference[1])};
  }
  if (report.map && std::none_of(report.models.begin(), report.models.end(),
                                 [&](const ModelCells& m) { return base_pair(m, report.map).has_value(); })) {
    throw DataError(fmt::format("{}: the runs hold no records of both {} and {}{}", options.map, report.map->base,
                                report.map->fallback,
                                report.map->model.empty() ? "" : " of the model " + report.map->model));
  }
  return report;
}

/// Writes plots.json and draws it. Returns why there are no plots, or nothing.
std::string write_plots(const nlohmann::json& plots, const std::set<std::string>& formats, Output& out) {
  std::vector<std::string> endings;
  for (const char* ending : {"svg", "pdf"}) {
    if (formats.contains(ending)) endings.emplace_back(ending);
  }
  if (endings.empty()) return {};
  out.write("plots/plots.json", plots.dump(1) + '\n');
  return draw_plots(out.folder() / "plots" / "plots.json", out.folder() / "plots", endings);
}

int run_report(const ReportOptions& options) {
  const std::set<std::string> formats(options.formats.begin(), options.formats.end());
  const auto report = load(options);
  Output out(options.out);
  const auto plots = plot_data(report);
  const auto no_plots = write_plots(plots, formats, out);
  const auto drawn =
      no_plots.empty() && (formats.contains("svg") || formats.contains("pdf")) ? plots["figures"].size() : 0;

  for (const auto& placed : report_tables(report)) {
    const auto& name = placed.table.name;
    if (formats.contains("tex")) out.write(fmt::format("tables/{}.tex", name), to_latex(placed.table.printed));
    if (formats.contains("csv")) out.write(fmt::format("tables/{}.csv", name), to_csv(placed.table.full));
  }
  if (formats.contains("csv")) {
    for (const auto& model : report.models) {
      out.write(fmt::format("tables/{}-all-cells.csv", model.slug), cells_csv(report, model));
    }
  }
  if (formats.contains("tex")) out.write("tables.tex", report_latex(report));
  if (formats.contains("json")) out.write("report.json", report_json(report).dump(1) + '\n');
  if (formats.contains("md")) {
    const bool linked = formats.contains("svg") && no_plots.empty();
    out.write("report.md", report_markdown(report, linked ? plot_links(plots, "svg") : std::vector<PlotLink>{}));
  }
  if (formats.contains("html")) out.write("report.html", html_page(report));

  for (const auto& remark : report.remarks) fmt::print(stderr, "sage2-eval: {}\n", remark);
  for (const char* name : {"report.html", "report.md", "report.json", "tables.tex"}) {
    const auto& written = out.names();
    if (std::find(written.begin(), written.end(), name) != written.end()) fmt::print("{}/{}\n", options.out, name);
  }
  const auto tables = std::count_if(out.names().begin(), out.names().end(),
                                    [](const std::string& name) { return name.rfind("tables/", 0) == 0; });
  if (tables > 0) fmt::print("{}/tables: {} files\n", options.out, tables);
  if (drawn > 0) fmt::print("{}/plots: {} plots\n", options.out, drawn);
  if (no_plots.empty()) return static_cast<int>(ExitCode::ok);
  fmt::print(stderr, "sage2-eval: {}; everything else is written\n", no_plots);
  return static_cast<int>(ExitCode::check_failed);
}

}  // namespace

void setup_report(CLI::App& app, Action& action) {
  auto options = std::make_shared<ReportOptions>();
  auto* sub = app.add_subcommand("report", "Turn runs into tables, plots and a page to show to others");
  sub->add_option("RUN", options->runs, "Run folders")->required();
  sub->add_option("--out", options->out, "Folder to write to")->required();
  sub->add_option("--format", options->formats, "What to write, separated by commas")
      ->delimiter(',')
      ->check(CLI::IsMember({"md", "tex", "csv", "json", "svg", "pdf", "html"}))
      ->capture_default_str();
  sub->add_option("--metric", options->metrics, "Metrics of the plots: cos_sim, rel_l1, rmse, max_abs, p50 .. p999")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--variants", options->variants, "Only these variants, separated by blanks");
  sub->add_option("--layers", options->layers, "Only these layers, as in 0,2,5-8");
  sub->add_option("--difference", options->difference, "Two variants A B: plot the error of A minus that of B")
      ->expected(2);
  sub->add_option("--map", options->map, "Adaptive map: its errors stand beside 4 and 8 bit everywhere");
  sub->add_option("--bench", options->bench, "Benchmark file: speed tables and plots, the map's milliseconds");
  sub->add_flag("--published", options->published, "Put the paper's figures for CogVideoX beside the suites' own");
  sub->callback([options, &action] { action = [options] { return run_report(*options); }; });
}

}  // namespace sage2
