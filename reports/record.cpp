#include "reports/record.hpp"

#include <limits>

namespace sage2 {
namespace {

using nlohmann::json;

/// JSON has no infinities or NaN: they are written as null and read back as NaN.
double number(const json& j, const char* key) {
  const auto& value = j.at(key);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

void put(json& j, const char* key, const std::optional<double>& value) {
  if (value) j[key] = *value;
}

template <class T>
void get(const json& j, const char* key, std::optional<T>& value) {
  const auto it = j.find(key);
  if (it != j.end() && !it->is_null()) value = it->get<T>();
}

json metrics_json(const ErrorMetrics& m) {
  json j{{"cos_sim", m.cos_sim}, {"rel_l1", m.rel_l1}, {"rmse", m.rmse}, {"max_abs", m.max_abs},
         {"p50", m.p50},         {"p90", m.p90},       {"p99", m.p99},   {"p999", m.p999}};
  put(j, "cos_sim_se", m.cos_sim_se);
  put(j, "rel_l1_se", m.rel_l1_se);
  put(j, "rmse_se", m.rmse_se);
  return j;
}

ErrorMetrics metrics_of(const json& j) {
  ErrorMetrics m;
  m.cos_sim = number(j, "cos_sim");
  m.rel_l1 = number(j, "rel_l1");
  m.rmse = number(j, "rmse");
  m.max_abs = number(j, "max_abs");
  m.p50 = number(j, "p50");
  m.p90 = number(j, "p90");
  m.p99 = number(j, "p99");
  m.p999 = number(j, "p999");
  get(j, "cos_sim_se", m.cos_sim_se);
  get(j, "rel_l1_se", m.rel_l1_se);
  get(j, "rmse_se", m.rmse_se);
  return m;
}

}  // namespace

void to_json(json& j, const Record& r) {
  j = json{{"schema", kRecordSchema},
           {"key", r.key},
           {"capture", r.capture},
           {"model", r.model},
           {"layer", r.layer},
           {"layer_name", r.layer_name},
           {"timestep", r.timestep},
           {"timestep_value", r.timestep_value},
           {"sample", r.sample},
           {"variant", r.variant},
           {"name", r.name},
           {"device", r.device},
           {"engine", r.engine},
           {"shape",
            {{"batch", r.shape.batch},
             {"q_heads", r.shape.q_heads},
             {"kv_heads", r.shape.kv_heads},
             {"q_len", r.shape.q_len},
             {"kv_len", r.shape.kv_len},
             {"head_dim", r.shape.head_dim},
             {"is_causal", r.shape.is_causal},
             {"sm_scale", r.shape.sm_scale}}},
           {"metrics", metrics_json(r.metrics)},
           {"sums",
            {{"ref_ref", r.sums.ref_ref},
             {"out_out", r.sums.out_out},
             {"ref_out", r.sums.ref_out},
             {"abs_err", r.sums.abs_err},
             {"abs_ref", r.sums.abs_ref},
             {"sq_err", r.sums.sq_err},
             {"count", r.sums.count}}},
           {"counts",
            {{"nan", r.counts.nan},
             {"inf", r.counts.inf},
             {"p_underflow", r.counts.p_underflow},
             {"p_total", r.counts.p_total},
             {"saturated", r.counts.saturated}}},
           {"nonfinite", r.nonfinite()},
           {"seconds", r.seconds}};
  if (r.sample_name) j["sample_name"] = *r.sample_name;
  if (r.cfg_branch) j["cfg_branch"] = *r.cfg_branch;
  if (!r.heads_selected.empty()) j["heads_selected"] = r.heads_selected;
  if (r.queries) j["queries"] = {{"count", r.queries->count}, {"seed", r.queries->seed}};
  auto& heads = j["heads"] = json::array();
  for (const auto& h : r.heads) {
    auto row = metrics_json(h.metrics);
    row["batch"] = h.batch;
    row["head"] = h.head;
    heads.push_back(std::move(row));
  }
}

void from_json(const json& j, Record& r) {
  r = {};
  j.at("key").get_to(r.key);
  j.at("capture").get_to(r.capture);
  r.model = j.value("model", "");
  j.at("layer").get_to(r.layer);
  r.layer_name = j.value("layer_name", "");
  j.at("timestep").get_to(r.timestep);
  r.timestep_value = j.value("timestep_value", 0.0);
  j.at("sample").get_to(r.sample);
  get(j, "sample_name", r.sample_name);
  get(j, "cfg_branch", r.cfg_branch);
  j.at("variant").get_to(r.variant);
  j.at("name").get_to(r.name);
  r.device = j.value("device", "");
  r.engine = j.value("engine", "");
  const auto& s = j.at("shape");
  s.at("batch").get_to(r.shape.batch);
  s.at("q_heads").get_to(r.shape.q_heads);
  s.at("kv_heads").get_to(r.shape.kv_heads);
  s.at("q_len").get_to(r.shape.q_len);
  s.at("kv_len").get_to(r.shape.kv_len);
  s.at("head_dim").get_to(r.shape.head_dim);
  r.shape.is_causal = s.value("is_causal", false);
  r.shape.sm_scale = s.value("sm_scale", 0.0);
  if (const auto it = j.find("heads_selected"); it != j.end()) it->get_to(r.heads_selected);
  if (const auto it = j.find("queries"); it != j.end()) {
    r.queries = QuerySubset{it->at("count").get<std::int64_t>(), it->at("seed").get<std::uint64_t>()};
  }
  r.metrics = metrics_of(j.at("metrics"));
  const auto& sums = j.at("sums");
  r.sums = {number(sums, "ref_ref"), number(sums, "out_out"), number(sums, "ref_out"), number(sums, "abs_err"),
            number(sums, "abs_ref"), number(sums, "sq_err"),  number(sums, "count")};
  const auto& c = j.at("counts");
  c.at("nan").get_to(r.counts.nan);
  c.at("inf").get_to(r.counts.inf);
  c.at("p_underflow").get_to(r.counts.p_underflow);
  c.at("p_total").get_to(r.counts.p_total);
  c.at("saturated").get_to(r.counts.saturated);
  for (const auto& row : j.at("heads")) {
    r.heads.push_back({row.at("batch").get<int>(), row.at("head").get<int>(), metrics_of(row)});
  }
  r.seconds = j.value("seconds", 0.0);
}

}  // namespace sage2
