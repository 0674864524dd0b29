#include "reports/record.hpp"

/// JSON form of run.json and errors.jsonl.
namespace sage2 {

using nlohmann::json;

void to_json(json& j, const SuiteRow& row) {
  j = json{{"label", row.label}, {"variant", row.variant}};
}

void from_json(const json& j, SuiteRow& row) {
  j.at("label").get_to(row.label);
  j.at("variant").get_to(row.variant);
}

void to_json(json& j, const SuiteInfo& s) {
  j = json{{"name", s.name}, {"title", s.title}, {"rows", s.rows}};
}

void from_json(const json& j, SuiteInfo& s) {
  j.at("name").get_to(s.name);
  j.at("title").get_to(s.title);
  j.at("rows").get_to(s.rows);
}

void to_json(json& j, const CaptureInfo& c) {
  j = json{{"name", c.name},   {"path", c.path},     {"fingerprint", c.fingerprint},
           {"model", c.model}, {"source", c.source}, {"bytes", c.bytes}};
}

void from_json(const json& j, CaptureInfo& c) {
  j.at("name").get_to(c.name);
  c.path = j.value("path", "");
  c.fingerprint = j.value("fingerprint", "");
  c.model = j.value("model", "");
  c.source = j.value("source", "");
  c.bytes = j.value("bytes", std::uint64_t{0});
}

void to_json(json& j, const RunInfo& r) {
  j = json{{"schema", kRunSchema},
           {"command", r.command},
           {"version", r.version},
           {"commit", r.commit},
           {"dirty", r.dirty},
           {"compiler", r.compiler},
           {"options", r.options},
           {"cpu", r.cpu},
           {"threads", r.threads},
           {"gpu", r.gpu},
           {"compute_capability", r.compute_capability},
           {"driver", r.driver},
           {"started", r.started},
           {"seed", r.seed},
           {"captures", r.captures},
           {"variants", r.variants},
           {"suites", r.suites},
           {"selection", r.selection}};
}

void from_json(const json& j, RunInfo& r) {
  r = {};
  j.at("command").get_to(r.command);
  r.version = j.value("version", "");
  r.commit = j.value("commit", "");
  r.dirty = j.value("dirty", false);
  r.compiler = j.value("compiler", "");
  r.options = j.value("options", "");
  r.cpu = j.value("cpu", "");
  r.threads = j.value("threads", 0);
  r.gpu = j.value("gpu", "");
  r.compute_capability = j.value("compute_capability", "");
  r.driver = j.value("driver", "");
  r.started = j.value("started", "");
  r.seed = j.value("seed", std::uint64_t{0});
  j.at("captures").get_to(r.captures);
  j.at("variants").get_to(r.variants);
  j.at("suites").get_to(r.suites);
  r.selection = j.value("selection", json::object());
}

void to_json(json& j, const CellError& e) {
  j = json{{"capture", e.capture},
           {"layer", e.layer},
           {"timestep", e.timestep},
           {"sample", e.sample},
           {"message", e.message}};
}

void from_json(const json& j, CellError& e) {
  j.at("capture").get_to(e.capture);
  j.at("layer").get_to(e.layer);
  j.at("timestep").get_to(e.timestep);
  j.at("sample").get_to(e.sample);
  j.at("message").get_to(e.message);
}

}  // namespace sage2
