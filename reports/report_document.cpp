#include "reports/report_document.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "reports/detail_tables.hpp"
#include "reports/stages.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

constexpr const char* kReportSchema = "sage2-report/1";

std::string title_of(const Report& report) {
  std::string names;
  for (const auto& m : report.models) names += names.empty() ? m.title : fmt::format(", {}", m.title);
  return fmt::format("Accuracy of low-bit attention: {}", names);
}

std::string percent(double share) {
  return fmt::format("{:.2f}%", 100 * share);
}

std::string quoted_command(const std::vector<std::string>& command) {
  std::string out;
  for (const auto& word : command) {
    if (!out.empty()) out += ' ';
    const bool plain = !word.empty() && word.find_first_of(" \t\n'\"\\$`&|;<>*?()[]{}#~!") == std::string::npos;
    if (plain) {
      out += word;
      continue;
    }
    out += '\'';
    for (const char c : word) {
      if (c == '\'') {
        out += "'\\''";
      } else {
        out += c;
      }
    }
    out += '\'';
  }
  return out;
}

json metrics_json(const ErrorMetrics& m) {
  json j = json::object();
  for (const auto& metric : kMetrics) {
    const double value = m.*metric.value;
    j[metric.name] = std::isfinite(value) ? json(value) : json();
  }
  return j;
}

json summary_json(const VariantSummary& s) {
  return {{"label", s.label},
          {"variant", s.variant},
          {"cells", s.cells},
          {"average", metrics_json(s.average)},
          {"worst", metrics_json(s.worst)},
          {"worst_cell", {{"layer", s.worst_layer}, {"timestep", s.worst_timestep}, {"name", s.worst_cell}}},
          {"largest_max_abs", std::isfinite(s.max_abs) ? json(s.max_abs) : json()},
          {"nonfinite_cells", s.nonfinite_cells},
          {"counts",
           {{"nan", s.counts.nan},
            {"inf", s.counts.inf},
            {"p_underflow", s.counts.p_underflow},
            {"p_total", s.counts.p_total},
            {"saturated", s.counts.saturated}}},
          {"seconds", s.seconds}};
}

json summaries_json(const std::vector<VariantSummary>& rows) {
  json j = json::array();
  for (const auto& r : rows) j.push_back(summary_json(r));
  return j;
}

json stages_json(const StageAnalysis& a) {
  const auto shares = [](const StageShares& s) {
    return json{{"name", s.name}, {"shares", s.shares}, {"interaction", s.interaction}};
  };
  json layers = json::array();
  for (const auto& l : a.layers) layers.push_back(shares(l));
  return {{"stages", a.stages}, {"whole", shares(a.whole)}, {"layers", layers}};
}

std::string model_markdown(const Report& report, const ModelCells& model, const std::vector<PlacedTable>& tables,
                           const std::vector<PlotLink>& plots) {
  auto out =
      fmt::format("## {}\n\n{}; captures: {}.\n\n", model.title, extent_of(model), fmt::join(model.captures, ", "));
  for (const auto& sentence : findings(report, model)) out += fmt::format("- {}\n", sentence);
  for (const auto& placed : tables) {
    if (placed.model != model.slug) continue;
    auto table = placed.table.printed;
    table.title = placed.table.topic;  // the section names the model
    out += '\n' + to_markdown(table);
  }
  for (const auto& plot : plots) {
    if (plot.model == model.slug) out += fmt::format("\n![{}]({})\n\n{}\n", plot.title, plot.file, plot.caption);
  }
  return out;
}

}  // namespace

std::vector<PlacedTable> report_tables(const Report& report) {
  std::vector<PlacedTable> all;
  for (const auto& model : report.models) {
    for (auto& t : suite_tables(report, model)) all.push_back({model.slug, std::move(t)});
    for (auto& t : detail_tables(report, model)) all.push_back({model.slug, std::move(t)});
  }
  if (!report.bench.empty()) all.push_back({"", speed_table(report)});
  return all;
}

std::vector<std::string> findings(const Report& report, const ModelCells& model) {
  std::vector<std::string> sentences;
  for (const auto& shown : shown_suites(report, model)) {
    if (shown.suite->name == "stages" || shown.suite->name == "presets" || shown.rows.size() < 2) continue;
    const auto [worst, best] =
        std::minmax_element(shown.rows.begin(), shown.rows.end(),
                            [](const auto& a, const auto& b) { return a.average.cos_sim < b.average.cos_sim; });
    if (std::isnan(best->average.cos_sim) || std::isnan(worst->average.cos_sim)) continue;
    sentences.push_back(fmt::format("{}: {} is best ({} CosSim on average, {} in its worst cell), {} last ({}, {}).",
                                    shown.suite->title, best->label, percent(best->average.cos_sim),
                                    percent(best->worst.cos_sim), worst->label, percent(worst->average.cos_sim),
                                    percent(worst->worst.cos_sim)));
  }
  for (const auto& shown : shown_suites(report, model)) {
    const auto stages = analyse_stages(model, *shown.suite);
    if (!stages) continue;
    const auto most = std::max_element(stages->whole.shares.begin(), stages->whole.shares.end());
    sentences.push_back(fmt::format("{}: most of the squared error is of {} ({:.0f}%).", shown.suite->title,
                                    stages->stages[static_cast<std::size_t>(most - stages->whole.shares.begin())],
                                    100 * *most));
  }
  if (const auto rows = adaptive_rows(report, model); rows.size() == 3) {
    sentences.push_back(
        fmt::format("Adaptive {}: CosSim rises from {} to {} on average and from {} to {} in the worst cell.",
                    rows[1].label, percent(rows[0].average.cos_sim), percent(rows[1].average.cos_sim),
                    percent(rows[0].worst.cos_sim), percent(rows[1].worst.cos_sim)));
  }
  const auto all = summarise(model, report.variants);
  for (const auto& r : all) {
    if (r.nonfinite_cells > 0) {
      sentences.insert(sentences.begin(),
                       fmt::format("{} gives NaN or infinity in {} of {} cells.", r.label, r.nonfinite_cells, r.cells));
    }
  }
  return sentences;
}

std::vector<std::vector<std::pair<std::string, std::string>>> provenance(const Report& report) {
  std::vector<std::vector<std::pair<std::string, std::string>>> runs;
  for (const auto& run : report.runs) {
    auto& p = runs.emplace_back();
    const auto put = [&p](const char* label, std::string value) {
      if (!value.empty()) p.emplace_back(label, std::move(value));
    };
    put("Command", quoted_command(run.command));
    put("Program", fmt::format("sage2-eval {}", run.version));
    put("Commit", run.commit + (run.dirty ? " (modified)" : ""));
    put("Compiler", run.compiler);
    put("Options", run.options);
    put("CPU", run.cpu);
    put("Threads", fmt::format("{}", run.threads));
    put("GPU", run.gpu);
    put("Compute capability", run.compute_capability);
    put("Driver", run.driver);
    put("Started", run.started);
    put("Seed of query subsets", fmt::format("{}", run.seed));
    if (!run.selection.empty()) put("Selection", run.selection.dump());
    for (const auto& c : run.captures) {
      put("Capture",
          fmt::format("{}: {} bytes, fingerprint {}{}{}", c.name, c.bytes, c.fingerprint,
                      c.model.empty() ? "" : ", model " + c.model, c.source.empty() ? "" : ", source " + c.source));
    }
  }
  return runs;
}

std::string report_markdown(const Report& report, const std::vector<PlotLink>& plots) {
  const auto tables = report_tables(report);
  auto out = fmt::format("# {}\n", title_of(report));
  for (const auto& remark : report.remarks) out += fmt::format("\n> {}\n", remark);
  for (const auto& model : report.models) out += '\n' + model_markdown(report, model, tables, plots);
  if (!report.bench.empty()) {
    out += "\n## Speed\n\n" + to_markdown(tables.back().table.printed);
    for (const auto& plot : plots) {
      if (plot.model.empty()) out += fmt::format("\n![{}]({})\n\n{}\n", plot.title, plot.file, plot.caption);
    }
  }
  out += "\n## Provenance\n";
  for (const auto& run : provenance(report)) {
    out += '\n';
    for (const auto& [label, value] : run) {
      out += fmt::format("- {}: {}\n", label, label == "Command" ? fmt::format("`{}`", value) : value);
    }
  }
  return out;
}

std::string report_latex(const Report& report) {
  std::string out =
      "% Shows every table of this report; a paper needs only \\usepackage{booktabs} and \\input{tables/NAME}.\n"
      "\\documentclass[10pt]{article}\n"
      "\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n"
      "\\usepackage[margin=18mm]{geometry}\n"
      "\\begin{document}\n";
  for (const auto& placed : report_tables(report)) {
    const auto& t = placed.table.printed;
    out += fmt::format("\\begin{{table}}[p]\n\\centering\n\\caption{{{}.", latex_escaped(t.title));
    for (const auto& note : t.notes) out += ' ' + latex_escaped(note);
    // Tables wider than the page shrink to it, others keep their size.
    out += fmt::format(
        "}}\n\\medskip\n\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{\\input{{tables/"
        "{}}}}}\n"
        "\\end{{table}}\n\\clearpage\n",
        placed.table.name);
  }
  return out + "\\end{document}\n";
}

json report_json(const Report& report) {
  json models = json::array();
  for (const auto& model : report.models) {
    json suites = json::array();
    for (const auto& shown : shown_suites(report, model)) {
      json suite{{"name", shown.name}, {"title", shown.suite->title}, {"rows", summaries_json(shown.rows)}};
      if (const auto stages = analyse_stages(model, *shown.suite)) suite["stages"] = stages_json(*stages);
      suites.push_back(std::move(suite));
    }
    json j{{"title", model.title},
           {"slug", model.slug},
           {"captures", model.captures},
           {"extent", extent_of(model)},
           {"findings", findings(report, model)},
           {"variants", summaries_json(summarise(model, report.variants))},
           {"suites", std::move(suites)}};
    if (const auto rows = adaptive_rows(report, model); !rows.empty()) j["adaptive"] = summaries_json(rows);
    models.push_back(std::move(j));
  }
  json runs = json::array();
  for (const auto& run : report.runs) runs.push_back(run);
  return {{"schema", kReportSchema}, {"models", models}, {"remarks", report.remarks}, {"runs", runs}};
}

}  // namespace sage2
