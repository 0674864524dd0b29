#pragma once

#include "nlohmann/json.hpp"
#include "reports/rank.hpp"

namespace sage2 {

/// Everything the text shows and every cell, for programs (docs/maps.md). Schema "sage2-rank/1".
[[nodiscard]] nlohmann::json rank_json(const RankResult& result);

}  // namespace sage2
