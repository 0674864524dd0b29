#include "datasets/path_template.hpp"

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::message_of;

TEST(PathTemplate, ReadsNumbersAndTensorNames) {
  const PathTemplate paths("/step_{timestep}/blocks.{layer}.attn/{tensor}");
  ASSERT_EQ(paths.depth(), 3U);
  PathFields fields;
  EXPECT_TRUE(paths.match(0, "step_0012", fields));
  EXPECT_TRUE(paths.match(1, "blocks.7.attn", fields));
  EXPECT_TRUE(paths.match(2, "key", fields));
  EXPECT_EQ(fields.timestep, 12);
  EXPECT_EQ(fields.layer, 7);
  EXPECT_EQ(fields.sample, 0);
  EXPECT_EQ(fields.tensor, 1U);
  EXPECT_FALSE(paths.match(0, "step_", fields));
  EXPECT_FALSE(paths.match(0, "step_1x", fields));
  EXPECT_FALSE(paths.match(1, "blocks.7.mlp", fields));
  EXPECT_FALSE(paths.match(2, "keys", fields));
  EXPECT_EQ(fields.layer, 7) << "a failed match leaves the fields alone";
}

TEST(PathTemplate, TensorMayHaveNeighbours) {
  const PathTemplate paths("/{tensor}{layer}_t{timestep}");
  PathFields fields;
  EXPECT_TRUE(paths.match(0, "Q3_t10", fields));
  EXPECT_EQ(fields.tensor, 0U);
  EXPECT_EQ(fields.layer, 3);
  EXPECT_EQ(fields.timestep, 10);
  EXPECT_TRUE(paths.match(0, "out0_t0", fields));
  EXPECT_EQ(fields.tensor, 3U);
  EXPECT_TRUE(paths.match(0, "value0_t0", fields));
  EXPECT_EQ(fields.tensor, 2U);
}

TEST(PathTemplate, RefusesNumbersThatAreTooLong) {
  const PathTemplate paths("{layer}/{tensor}");
  PathFields fields;
  EXPECT_TRUE(paths.match(0, "999999999", fields));
  EXPECT_FALSE(paths.match(0, "9999999999", fields));
  EXPECT_FALSE(paths.match(0, "-1", fields));
}

TEST(PathTemplate, MalformedOnesAreUsageErrorsThatSayWhy) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "lacks '{tensor}'"},
      {"/layers/{layer}", "lacks '{tensor}'"},
      {"/{head}/{tensor}", "unknown place holder '{head}'"},
      {"/{layer/{tensor}", "without a closing one"},
      {"/{layer}//{tensor}", "empty name"},
      {"/{layer}/{tensor}/", "ends in a slash"},
      {"/{layer}/{tensor}/{layer}", "'{layer}' twice"},
      {"/{layer}{timestep}/{tensor}", "something between them"},
      {"/{tensor}/{layer", "without a closing one"},
  };
  for (const auto& [text, words] : cases) {
    const std::string message = message_of<UsageError>([&text = text] { const PathTemplate unused(text); });
    EXPECT_NE(message.find(words), std::string::npos) << "'" << text << "': " << message;
  }
}

}  // namespace
}  // namespace sage2
