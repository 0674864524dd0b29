#include "reports/map.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "datasets/error.hpp"
#include "reports/rank.hpp"
#include "tests/reports/python.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

namespace fs = std::filesystem;
using test::ids;
using test::ToyRun;

double by_layer(int layer, int timestep, int, std::size_t variant) {
  return (layer == 1 ? 0.3 : 0.1) / (variant == 0 ? 1 : 10) + 0.001 * timestep;
}

class MapFile : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    const test::Runs runs{ToyRun().make(by_layer)};
    const auto table = pool_cells(runs, ids({"sage2-4b", "sage2-8b"}));
    const auto costs = modelled_costs(table, test::toy_bits);
    map_ = to_map(rank_cells(table, costs, {{Rule::fraction, 0.5, {}, {}}, {10, 0}}));
    map_.provenance = {{"command", {"sage2-eval", "rank"}}};
    list_ = write_map(file_, map_);
  }

  fs::path folder_ = fs::path(testing::TempDir()) / ("sage2_map_test_" + std::to_string(getpid()));
  fs::path file_ = folder_ / "sub" / "map.json";
  fs::path list_;
  AdaptiveMap map_;
};

std::string text_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

TEST_F(MapFile, ListsTheCellsInTheFallback) {
  EXPECT_EQ(list_, folder_ / "sub" / "int8_cells.txt");
  EXPECT_EQ(text_of(list_), "1 0\n1 5\n1 10\n");
}

TEST_F(MapFile, ComesBackAsItWas) {
  const auto back = read_map(file_);
  EXPECT_EQ(nlohmann::json(back), nlohmann::json(map_));
  EXPECT_EQ(back.variants.at("sage2-8b"), "sage2-8b");
}

TEST_F(MapFile, AnswersForTimestepsThatWereNotCaptured) {
  const auto map = read_map(file_);
  EXPECT_TRUE(look_up(map, 1, 5).captured);
  EXPECT_EQ(look_up(map, 1, 5).name, "sage2-8b");
  const auto between = look_up(map, 0, 7);
  EXPECT_FALSE(between.captured);
  EXPECT_EQ(between.timestep, 5);
  EXPECT_EQ(between.name, "sage2-4b");
  EXPECT_EQ(look_up(map, 1, 99).timestep, 10);
  auto even = map;  // timesteps 0 and 10 only: 5 is as near to both
  even.cells.erase(even.cells.begin() + 1);
  EXPECT_EQ(look_up(even, 0, 5).timestep, 0);
  EXPECT_THROW((void)look_up(map, 2, 0), UsageError);
}

TEST_F(MapFile, RefusesWhatIsNoMap) {
  const auto refused = [&](const std::string& text) {
    std::ofstream(file_) << text;
    EXPECT_THROW((void)read_map(file_), DataError) << text;
  };
  refused("{");
  refused(R"({"schema":"sage2-map/2"})");
  refused(R"({"schema":"sage2-map/1","base":"a","fallback":"b","variants":{"a":"a","b":"b"},"cells":[]})");
  refused(R"({"schema":"sage2-map/1","base":"a","fallback":"b","variants":{"a":"a"},)"
          R"("cells":[{"layer":0,"timestep":0,"variant":"b"}]})");
  fs::remove(file_);
  EXPECT_THROW((void)read_map(file_), DataError);
  EXPECT_THROW(write_map("/proc/sage2/map.json", map_), DataError);
}

TEST_F(MapFile, FollowsItsJsonSchema) {
  const auto python = test::python_with("jsonschema");
  if (python.empty()) GTEST_SKIP() << "no Python with jsonschema";
  const std::string script =
      "import json, sys, jsonschema; schema = json.load(open(sys.argv[1])); "
      "jsonschema.Draft7Validator.check_schema(schema); jsonschema.validate(json.load(open(sys.argv[2])), schema)";
  const std::string schema = std::string(SAGE2_SOURCE_DIR) + "/docs/schemas/sage2-map-1.schema.json";
  const auto validate = [&] { return test::run({python, "-c", script, schema, file_.string()}); };
  EXPECT_EQ(validate().status, 0) << validate().output;
  auto wrong = nlohmann::json(map_);
  wrong["cells"][0].erase("variant");
  std::ofstream(file_) << wrong;
  EXPECT_NE(validate().status, 0) << "the schema must refuse a cell without a variant";
}

TEST_F(MapFile, IsReadByThePythonReader) {
  const auto python = test::python_with("json");
  if (python.empty()) GTEST_SKIP() << "no Python";
  const std::string reader = std::string(SAGE2_SOURCE_DIR) + "/scripts/sage2_map.py";
  const auto ask = [&](const char* layer, const char* timestep) {
    return test::run({python, reader, file_.string(), layer, timestep});
  };
  EXPECT_EQ(ask("1", "5").output, "sage2-8b\n");
  const auto between = ask("0", "7").output;
  EXPECT_NE(between.find("sage2-4b\n"), std::string::npos);
  EXPECT_NE(between.find("layer 0, timestep 7 was not captured: timestep 5 answers for it"), std::string::npos);
  EXPECT_NE(ask("7", "0").status, 0);
}

}  // namespace
}  // namespace sage2
